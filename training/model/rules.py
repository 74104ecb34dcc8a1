"""Owns the rules of promotion: how much better a candidate must be, and how little worse."""

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Rules:
    """What the gate asks of a candidate; raises ValueError naming a rule that is out of range.

    fd_errors: fd_cnn must be lower by more than so many standard errors of the difference.
    loss_errors: any other number counts as worse only beyond so many. The default lets one
    comparison in 700 fail by chance, since a decision makes dozens of them.
    accuracy_loss: class_accuracy may fall by so much, a share of the images.
    class_kept: each class must keep this share of its accuracy and of its images.
    max_memorised: at most this share of images may be nearer to a training image than all but 1 %
    of held-out images are.
    """

    fd_errors: float = 1.0
    loss_errors: float = 3.0
    accuracy_loss: float = 0.01
    class_kept: float = 0.75
    max_memorised: float = 0.05

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:
                raise ValueError(f"rule {name} is {value!r}; expected {low:g} to {high:g}")


_RANGES: dict[str, tuple[float, float]] = {
    "fd_errors": (0, 10),
    "loss_errors": (0, 10),
    "accuracy_loss": (0, 1),
    "class_kept": (0, 1),
    "max_memorised": (0, 1),
}


def parse_rules(texts: Iterable[str]) -> Rules:
    """["fd_errors=2", …] → Rules, the defaults where nothing is said; raises ValueError."""
    known = [f.name for f in fields(Rules)]
    rules: dict[str, float] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"rule {text!r}; expected name=value, such as fd_errors=2")
        if name not in known:
            raise ValueError(f"rule {name!r} does not exist; rules: {', '.join(known)}")
        rules[name] = _number(name, value)
    return Rules(**rules)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        low, high = _RANGES[name]
        raise ValueError(f"rule {name} is {text!r}; expected {low:g} to {high:g}") from None
