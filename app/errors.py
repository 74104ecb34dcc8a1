"""Owns the errors a caller can meet, and the one table from exception to status.

NoisewellError
├── BadRequestError        422  a value is outside what is allowed
├── NotFoundError          404  the thing named does not exist
├── ConflictError          409  the thing is in a state that forbids this
├── TooLargeError          413  a body or an upload is over its limit
├── UnsupportedTypeError   415  a body of another type than the route reads
├── MalformedError         400  it breaks the rules of HTTP, or is readable in two ways
├── SlowHeadError          408  the head of a request took too long
├── SlowBodyError          408  the body of a request took too long
├── SlowReaderError        499  its client took nothing of the answer for too long
├── TargetTooLongError     414  a URL is over its limit
├── HeadTooLargeError      431  too many headers, or bytes of them
├── UnauthorizedError      401  no key, or a wrong one
├── QuotaError             409  as many datasets, or bytes of them, as may be
├── ForbiddenError         403  a key that does not open what was asked
├── MisdirectedError       421  its Host is none that this service answers to
├── CrossSiteError         403  another site's page sent it through a browser
├── RateLimitError         429  a quota is used up; says when there is some again
├── ClientGoneError        499  nobody is left to answer
├── StorageFullError       507  the disk has no room for what was to be stored
└── UnavailableError       503  no capacity now; says when to come back
    ├── QueueFullError     503  more images are waiting than `max_queue_size`
    └── CrowdedError       503  more connections are open than `max_connections`
"""

from http import HTTPStatus


class NoisewellError(Exception):
    """`detail` names the thing, the value, what was expected and the next step.

    The first sentence of a subclass's docstring is what people read as the cause of its `code`,
    and `fix` is what they can do.
    """

    status: int = 500
    code: str = "internal"
    fix: str = ""

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
    fix = (
        "`detail` and `errors` name the field, what came and what is allowed; send that. `GET "
        "/docs` lists every field."
    )


class NotFoundError(NoisewellError):
    """The thing named does not exist."""

    status = 404
    code = "not_found"
    fix = (
        "Look at the list it should be in (`GET /v1/models`, `/v1/datasets`, "
        "`/v1/training/jobs`); `detail` names what there is. It may have been deleted."
    )


class ConflictError(NoisewellError):
    """The thing exists in a state that forbids what was asked."""

    status = 409
    code = "conflict"
    fix = (
        "`detail` names what holds it: wait for it, cancel it, or do that first. Sending the "
        "same again does not help."
    )


class QuotaError(NoisewellError):
    """There are as many as may be; something must be deleted, or the setting raised."""

    status = 409
    code = "quota"
    fix = (
        "Delete datasets that nobody needs, or raise `NOISEWELL_MAX_DATASETS` or "
        "`NOISEWELL_MAX_DATASETS_BYTES`."
    )


class TooLargeError(NoisewellError):
    """A body or an upload is over its limit."""

    status = 413
    code = "too_large"
    fix = (
        "Send less, or raise `NOISEWELL_MAX_BODY_BYTES`; for datasets "
        "`NOISEWELL_MAX_UPLOAD_BYTES`, for images to verify `NOISEWELL_MAX_VERIFY_BYTES`."
    )


class UnsupportedTypeError(NoisewellError):
    """The body is of another type than the route reads."""

    status = 415
    code = "unsupported_type"
    fix = (
        "Send the type that `detail` names: JSON with `Content-Type: application/json`, an "
        "upload as `multipart/form-data`."
    )


class MalformedError(NoisewellError):
    """It breaks the rules of HTTP, or two readers of it could understand two things."""

    status = 400
    code = "malformed"
    fix = (
        "`detail` says what is wrong. Programs that speak HTTP for you do not send this; a proxy "
        "in between may: look at what it adds."
    )


class SlowHeadError(NoisewellError):
    """The head of a request was not whole by its deadline."""

    status = 408
    code = "slow_head"
    fix = (
        "Send the whole head at once, and the request again; over a line that is slower than that, "
        "raise `NOISEWELL_MAX_HEADER_SEC`."
    )


class SlowBodyError(NoisewellError):
    """The body of a request was not whole by its deadline."""

    status = 408
    code = "slow_body"
    fix = (
        "Send it again, faster or as several smaller ones; over a line of less than 256 KB a "
        "second, raise `NOISEWELL_MAX_BODY_SEC`."
    )


class SlowReaderError(NoisewellError):
    """Its client took nothing of an answer that waited for it, and was cut off."""

    status = 499
    code = "slow_reader"
    fix = (
        "Read answers as they come; if that takes breaks, raise `NOISEWELL_MAX_UNREAD_SEC`. It "
        "stands in logs and metrics only."
    )


class TargetTooLongError(NoisewellError):
    """The URL of a request is over its limit."""

    status = 414
    code = "target_too_long"
    fix = "Send what is long in a body, or raise `NOISEWELL_MAX_HEADER_BYTES`."


class HeadTooLargeError(NoisewellError):
    """A request has too many headers, or they are too long."""

    status = 431
    code = "head_too_large"
    fix = (
        "Send fewer or shorter headers (cookies of other services on the same host are headers "
        "too), or raise `NOISEWELL_MAX_HEADERS` or `NOISEWELL_MAX_HEADER_BYTES`."
    )


class UnauthorizedError(NoisewellError):
    """No key was given, or a wrong one."""

    status = 401
    code = "unauthorized"
    fix = (
        "Send a key as `Authorization: Bearer KEY`; `noisewell keys create` makes one, "
        "`noisewell keys list` shows which are valid."
    )


class ForbiddenError(NoisewellError):
    """The key is known, and has not the scope that the route wants."""

    status = 403
    code = "forbidden"
    fix = (
        "Use a key with the scope that `detail` names; `noisewell keys create --scope …` makes one."
    )


class MisdirectedError(NoisewellError):
    """The request's Host is none that this service answers to."""

    status = 421
    code = "wrong_host"
    fix = "Ask for it by a name it knows, or put the name into `NOISEWELL_ALLOWED_HOSTS`."


class CrossSiteError(NoisewellError):
    """A browser sent it for a page of another site."""

    status = 403
    code = "cross_site"
    fix = (
        "If the page is yours, put its host into `NOISEWELL_ALLOWED_HOSTS`; programs send no "
        "`Origin` and are not asked."
    )


class RateLimitError(NoisewellError):
    """This key, or this address, asked for as many images as it may; others are served."""

    status = 429
    code = "rate_limited"
    fix = (
        "Come back after `Retry-After`; the `RateLimit` header of each answer says what is "
        "left. `NOISEWELL_KEY_IMAGES_PER_MINUTE` and `NOISEWELL_ADDRESS_IMAGES_PER_MINUTE` "
        "set how much."
    )

    def __init__(self, detail: str, *, retry_after_sec: float, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.retry_after_sec = retry_after_sec
        self.headers = headers


class ClientGoneError(NoisewellError):
    """The client hung up before its answer was ready."""

    status = 499
    code = "client_gone"
    fix = "Nothing; it stands in logs and metrics only, as nobody is left to read it."


class StorageFullError(NoisewellError):
    """The disk has no room for what was to be stored.

    Sizes are in bytes; `needed_bytes` is None where nobody knows it.
    """

    status = 507
    code = "storage_full"
    fix = (
        "Make room (`noisewell gc`), then send it again; nothing was stored. `needed_bytes` "
        "and `free_bytes` say how much."
    )

    def __init__(self, needed_bytes: int | None, free_bytes: int) -> None:
        needed = "" if needed_bytes is None else f"{needed_bytes:,} bytes are needed and "
        super().__init__(
            f"the disk is full: {needed}{free_bytes:,} are free; nothing was stored. Make room "
            "(noisewell gc) and send the request again"
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class UnavailableError(NoisewellError):
    """There is no capacity now, or the service cannot do it for the moment.

    `retry_after_sec` is an estimate of when it can.
    """

    status = 503
    code = "unavailable"
    fix = (
        "Come back after `Retry-After`; `detail`, `/health/ready` and `/v1/status` say what "
        "it waits for. If it lasts, the log says why."
    )

    def __init__(self, detail: str, *, retry_after_sec: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_sec = retry_after_sec


class QueueFullError(UnavailableError):
    """More images are waiting for the generator than the queue holds."""

    code = "queue_full"
    fix = (
        "Come back after `Retry-After`, which is measured. If that happens often: more "
        "replicas, a GPU, or a larger `NOISEWELL_MAX_QUEUE_SIZE` for longer waits."
    )


class CrowdedError(UnavailableError):
    """More connections are open, or requests wait on one, than may be."""

    code = "crowded"
    fix = (
        "Come back later, and use a connection again instead of opening another. If they are "
        "honest, raise `NOISEWELL_MAX_CONNECTIONS`, and the descriptors that the system allows."
    )
