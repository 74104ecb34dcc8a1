"""Owns the errors a caller can meet, and the one table from exception to status.

NoisewellError
├── BadRequestError        422  a value is outside what is allowed
├── NotFoundError          404  the thing named does not exist
├── ConflictError          409  the thing is in a state that forbids this
├── TooLargeError          413  a body or an upload is over its limit
├── UnsupportedTypeError   415  a body of another type than the route reads
├── UnauthorizedError      401  no key, or a wrong one
├── QuotaError             409  as many datasets, or bytes of them, as may be
├── ForbiddenError         403  a key that does not open what was asked
├── MisdirectedError       421  its Host is none that this service answers to
├── CrossSiteError         403  another site's page sent it through a browser
├── RateLimitError         429  a quota is used up; says when there is some again
├── ClientGoneError        499  nobody is left to answer
├── StorageFullError       507  the disk has no room for what was to be stored
└── UnavailableError       503  no capacity now; says when to come back
    └── QueueFullError     503  more images are waiting than `max_queue_size`
"""

from http import HTTPStatus


class NoisewellError(Exception):
    """`detail` names the thing, the value, what was expected and the next step."""

    status: int = 500
    code: str = "internal"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field

    @property
    def title(self) -> str:
        """The status in words, for people who read the JSON."""
        return "Client Closed Request" if self.status == 499 else HTTPStatus(self.status).phrase


class BadRequestError(NoisewellError):
    """A value is outside what is allowed."""

    status = 422
    code = "invalid"


class NotFoundError(NoisewellError):
    """The thing named does not exist."""

    status = 404
    code = "not_found"


class ConflictError(NoisewellError):
    """The thing exists in a state that forbids what was asked."""

    status = 409
    code = "conflict"


class QuotaError(NoisewellError):
    """There are as many as may be; something must be deleted, or the setting raised."""

    status = 409
    code = "quota"


class TooLargeError(NoisewellError):
    """A body or an upload is over its limit."""

    status = 413
    code = "too_large"


class UnsupportedTypeError(NoisewellError):
    """The body is of another type than the route reads."""

    status = 415
    code = "unsupported_type"


class UnauthorizedError(NoisewellError):
    """No key was given, or a wrong one."""

    status = 401
    code = "unauthorized"


class ForbiddenError(NoisewellError):
    """The key is known, and has not the scope that the route wants."""

    status = 403
    code = "forbidden"


class MisdirectedError(NoisewellError):
    """The request's Host is none that this service answers to."""

    status = 421
    code = "wrong_host"


class CrossSiteError(NoisewellError):
    """A browser sent it for a page of another site."""

    status = 403
    code = "cross_site"


class RateLimitError(NoisewellError):
    """This key, or this address, asked for as many images as it may; others are served."""

    status = 429
    code = "rate_limited"

    def __init__(self, detail: str, *, retry_after_sec: float, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.retry_after_sec = retry_after_sec
        self.headers = headers


class ClientGoneError(NoisewellError):
    """The client hung up before its answer was ready."""

    status = 499
    code = "client_gone"


class StorageFullError(NoisewellError):
    """The disk is full. Sizes are in bytes; `needed_bytes` is None where nobody knows it."""

    status = 507
    code = "storage_full"

    def __init__(self, needed_bytes: int | None, free_bytes: int) -> None:
        needed = "" if needed_bytes is None else f"{needed_bytes:,} bytes are needed and "
        super().__init__(
            f"the disk is full: {needed}{free_bytes:,} are free; nothing was stored. Make room "
            "(noisewell gc) and send the request again"
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class UnavailableError(NoisewellError):
    """There is no capacity now; `retry_after_sec` is an estimate of when there will be."""

    status = 503
    code = "unavailable"

    def __init__(self, detail: str, *, retry_after_sec: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_sec = retry_after_sec


class QueueFullError(UnavailableError):
    """More images are waiting for the generator than the queue holds."""

    code = "queue_full"
