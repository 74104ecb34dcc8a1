"""Owns the rule by which a newly trained generator takes over, or does not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Policy = Literal["if_better", "never", "always"]

MAX_ACCURACY_LOSS = 0.01


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, and why, in a sentence."""

    promote: bool
    reason: str


def should_promote(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    policy: Policy = "if_better",
    misfit: str | None = None,
) -> Decision:
    """Compare two reports of the same evaluator on the same images and seeds.

    champion: None if the model has none yet. misfit: why the champion could not be measured on
    this dataset (another resolution, channel count or class list), which means keep.
    """
    if policy != "if_better":
        return Decision(policy == "always", f"promote is {policy!r}")
    if not math.isfinite(candidate["fd_cnn"]):
        return Decision(False, f"the candidate's fd_cnn is {candidate['fd_cnn']}")
    if misfit is not None:
        return Decision(False, f"the champion cannot be compared: {misfit}")
    if champion is None:
        return Decision(True, "the model had no champion yet")
    if candidate["evaluator"] != champion["evaluator"]:
        return Decision(False, "the two were measured by different evaluators")
    return _compare(candidate, champion)


def _compare(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> Decision:
    new, old = candidate["fd_cnn"], champion["fd_cnn"]
    margin = math.hypot(candidate["fd_cnn_se"], champion["fd_cnn_se"])
    told = f"fd_cnn {new:.3f} against {old:.3f} of the champion (standard error {margin:.3f})"
    if not new < old - margin:
        return Decision(False, f"not better by more than the error: {told}")
    lost = champion.get("class_accuracy", 0.0) - candidate.get("class_accuracy", 0.0)
    if lost > MAX_ACCURACY_LOSS:
        return Decision(False, f"class accuracy fell by {lost:.3f}, though {told}")
    return Decision(True, f"better: {told}")
