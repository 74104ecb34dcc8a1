"""Owns what is said about each error code: in docs/errors.md, at /docs, and where `type` leads.

`python -m app.codes` prints docs/errors.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from app.errors import NoisewellError

_PAGE = """\
# Errors

Every error is `application/problem+json` (RFC 9457): `status`, `title`, a `code` for programs, a
`detail` that names the thing, the value, what was expected and the next step, the `request_id` that
the log has too, and `type`, a link to what stands here, in the `/docs` of the service itself. This
page is written by `python -m app.codes`.
"""


@dataclass(frozen=True)
class Code:
    """One code: why it is answered, and what whoever gets it can do."""

    code: str
    status: int
    cause: str
    fix: str


# Answered by the framework, or by mistake, and thus no exceptions of ours.
_OTHERS = (
    Code("http", 400, "The framework refuses the request; `detail` has its words.", "Mend that."),
    Code(
        "internal",
        500,
        "Something is wrong in the service, not in the request.",
        "Look into its log for the `request_id`, and report what stands there.",
    ),
    Code(
        "method_not_allowed",
        405,
        "The path is there, the method is not.",
        "Use one that the `Allow` header names.",
    ),
)


def link(code: str) -> str:
    """Where a code is explained, relative to the service: no other host is needed to read it."""
    return f"/docs#error-{code}"


def codes() -> list[Code]:
    """All there are, by name."""
    return sorted((*_OTHERS, *_of_exceptions(NoisewellError)), key=lambda code: code.code)


def page() -> str:
    """docs/errors.md."""
    parts = [f"## {c.code}\n\n**{c.status}.** {c.cause}\n\n{c.fix}\n" for c in codes()]
    return "\n".join((_PAGE, *parts))


def _of_exceptions(above: type[NoisewellError]) -> Iterator[Code]:
    for error in above.__subclasses__():
        if error.__module__ == NoisewellError.__module__:
            cause = (error.__doc__ or "").partition(".")[0]
            yield Code(error.code, error.status, f"{cause}.", error.fix)
            yield from _of_exceptions(error)


if __name__ == "__main__":
    print(page(), end="")
