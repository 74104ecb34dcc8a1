"""Owns the rule by which a newly trained generator takes over, or does not."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from training.history import number
from training.model.rules import Rules

Policy = Literal["if_better", "never", "always"]
Report = Mapping[str, Any]

NAMED_CLASSES = 5

_SAME = {
    "evaluator": "evaluator",
    "dataset_hash": "dataset",
    "first_seed": "first seed",
    "num_samples": "number of samples",
    "group_size": "group size",
}


@dataclass(frozen=True)
class Check:
    """A condition and what was found; passed is None where a number it needs was not measured."""

    name: str
    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, and why, in a sentence; what was asked and found."""

    promote: bool
    reason: str
    policy: Policy
    rules: Rules
    checks: tuple[Check, ...]


def should_promote(
    candidate: Report,
    champion: Report | None,
    policy: Policy = "if_better",
    misfit: str | None = None,
    rules: Rules = Rules(),
) -> Decision:
    """Compare two reports of the same evaluator on the same images and seeds.

    champion: None if the model has none yet, or if it could not be measured on this dataset
    (another resolution, channel count or class list, damaged files); misfit says so then. The first
    version of a model becomes champion whatever its numbers are. A compared number
    that neither report has is not asked for, except fd_cnn; one that only the champion has counts
    against the candidate.
    """
    checks = tuple(_checks(candidate, champion, misfit, rules))
    first = champion is None and misfit is None
    promote, reason = _verdict(checks, policy, first)
    return Decision(promote, reason, policy, rules, checks)


def _verdict(checks: tuple[Check, ...], policy: Policy, first: bool) -> tuple[bool, str]:
    failed = [check for check in checks if check.passed is False]
    faults = "; ".join(check.sentence for check in failed)
    if first:
        return True, "the first version of the model" + (f"; but {faults}" if failed else "")
    if policy == "never":
        otherwise = "" if failed else "; the rules would have promoted it"
        return False, f"promote is 'never'{otherwise}"
    if policy == "always" and all(check.name != "finite" for check in failed):
        against = f"; the rules would have kept the champion: {faults}" if failed else ""
        return True, f"promote is 'always'{against}"
    if failed:
        return False, faults
    return True, f"better: {next(check.sentence for check in checks if check.name == 'fd_cnn')}"


def _checks(
    candidate: Report, champion: Report | None, misfit: str | None, rules: Rules
) -> Iterator[Check]:
    trusted = (_finite(candidate), _known_evaluator(candidate))
    yield from trusted
    yield _not_memorising(candidate, rules)
    if not all(check.passed for check in trusted):
        return
    if misfit is not None:
        yield Check("comparable", False, f"the champion cannot be compared: {misfit}")
    if champion is not None:
        comparable = _comparable(candidate, champion)
        yield comparable
        if comparable.passed:
            yield from _comparisons(candidate, champion, rules)


# Of the candidate alone


def _finite(report: Report) -> Check:
    broken = [f"{name} is {value}" for name, value in _numbers(report) if not math.isfinite(value)]
    if broken:
        return Check("finite", False, f"the candidate's {', '.join(broken)}")
    return Check("finite", True, "all its numbers are finite")


def _numbers(report: Report, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in report.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value


def _known_evaluator(report: Report) -> Check:
    digest = report.get("evaluator")
    if not digest:
        return Check("evaluator", False, "it is not known which evaluator measured the candidate")
    return Check("evaluator", True, f"measured by evaluator {digest}")


def _not_memorising(report: Report, rules: Rules) -> Check:
    share, reals, se = (
        number(report.get(name)) for name in ("memorised", "memorised_reals", "memorised_se")
    )
    if share is None or reals is None or se is None:
        return Check("memorised", None, "whether it memorises was not measured")
    passed = share <= max(rules.max_memorised, reals + rules.loss_errors * se)
    verdict = "it does not memorise" if passed else "it memorises"
    found = f"{share:.1%} of its images are as close to a training image as {reals:.1%} of held-out"
    return Check("memorised", passed, f"{verdict}: {found} ones are")


# Of both


def _comparable(new: Report, old: Report) -> Check:
    for key, what in _SAME.items():
        if new.get(key) != old.get(key):
            sentence = (
                f"the {what} is {new.get(key)!r}, the champion was measured with "
                f"{old.get(key)!r}: their numbers do not compare"
            )
            return Check("comparable", False, sentence)
    return Check("comparable", True, f"the {', '.join(_SAME.values())} are the champion's")


def _comparisons(new: Report, old: Report, rules: Rules) -> Iterator[Check]:
    yield _closer(new, old, rules)
    yield _no_worse("class_accuracy", new, old, rules, rules.accuracy_loss)
    yield _no_worse("coverage", new, old, rules)
    yield _no_class_lost(
        "class_accuracy_by_class", "read as asked much less often", new, old, rules
    )
    yield _no_class_lost("class_share", "much rarer among its images", new, old, rules)


def _closer(new: Report, old: Report, rules: Rules) -> Check:
    missing = _missing("fd_cnn", new, old)
    if missing is not None:
        return Check("fd_cnn", False, missing.sentence)
    margin = rules.fd_errors * _error("fd_cnn", new, old)
    return Check("fd_cnn", *_lower("fd_cnn", new, old["fd_cnn"], "the champion's", margin))


def _no_worse(name: str, new: Report, old: Report, rules: Rules, tolerated: float = 0.0) -> Check:
    missing = _missing(name, new, old)
    if missing is not None:
        return missing
    theirs, whose = old[name], "the champion's"
    reals = number(old.get(f"{name}_reals"))
    if reals is not None and reals < theirs:
        # Making only plain images is read as asked more often than real images are: no standard.
        theirs, whose = reals, "real images at"
    margin = max(tolerated, rules.loss_errors * _error(name, new, old))
    lower, sentence = _lower(name, new, theirs, whose, margin)
    return Check(name, not lower, sentence)


def _error(name: str, new: Report, old: Report) -> float:
    """Standard error of the difference, as if the two had not shared seeds and reals: too large."""
    return math.hypot(new[f"{name}_se"], old[f"{name}_se"])


def _lower(name: str, new: Report, theirs: float, whose: str, margin: float) -> tuple[bool, str]:
    lower = new[name] < theirs - margin
    verdict = "is lower than" if lower else "is not lower than"
    return lower, f"{name} {new[name]:.4g} {verdict} {whose} {theirs:.4g} by more than {margin:.2g}"


def _missing(name: str, new: Report, old: Report) -> Check | None:
    """Why `name` cannot be compared: a fault only if the champion's was measured."""
    for part in (name, f"{name}_se"):
        if number(old.get(part)) is None:
            return Check(name, None, f"{part} of the champion was not measured")
        if number(new.get(part)) is None:
            return Check(name, False, f"{part} was measured of the champion only")
    return None


def _no_class_lost(name: str, how: str, new: Report, old: Report, rules: Rules) -> Check:
    if name not in old:
        return Check(name, None, f"{name} of the champion was not measured")
    if name not in new:
        return Check(name, False, f"{name} was measured of the champion only")
    reals: Mapping[str, float] = old.get(f"{name}_reals", {})
    lost: list[str] = []
    for c, theirs in old[name].items():
        # A champion that makes too many of one class must not bind its successor to do so.
        wanted, ours = min(theirs, reals.get(c, theirs)), new[name].get(c, 0.0)
        if _collapsed(ours, wanted, _images(name, c, new), rules):
            lost.append(f"{c!r} ({theirs:.1%} → {ours:.1%})")
    if not lost:
        return Check(name, True, f"no class is {how} than the champion's")
    more = f" and {len(lost) - NAMED_CLASSES} more" if len(lost) > NAMED_CLASSES else ""
    named = ", ".join(lost[:NAMED_CLASSES])
    return Check(name, False, f"classes are {how} than the champion's: {named}{more}")


def _images(name: str, class_name: str, report: Report) -> float:
    """How many images a class's number rests on."""
    total = number(report.get("num_samples")) or 1
    if name == "class_share":
        return total
    shares = report.get("class_share_reals", {})
    return max(1.0, total * shares.get(class_name, 1 / len(report[name])))


def _collapsed(ours: float, wanted: float, images: float, rules: Rules) -> bool:
    """Whether a share fell, by the rule and by the pooled error of two proportions."""
    pooled = (ours + wanted) / 2
    error = math.sqrt(2 * pooled * (1 - pooled) / images)
    return ours < rules.class_kept * wanted and ours < wanted - rules.loss_errors * error
