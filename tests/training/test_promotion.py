"""The promotion rule: better, equal, worse, and everything that must not win."""

import pytest

from training.promotion import should_promote


def report(fd, accuracy=0.99, evaluator="e", se=0.1):
    return {"fd_cnn": fd, "fd_cnn_se": se, "class_accuracy": accuracy, "evaluator": evaluator}


@pytest.mark.parametrize(
    ("candidate", "champion", "promoted", "told"),
    [
        (report(1.0), None, True, "no champion yet"),
        (report(1.0), report(5.0), True, "better"),
        (report(5.0), report(5.0), False, "not better"),
        (report(4.9), report(5.0), False, "not better by more than the error"),
        (report(9.0), report(5.0), False, "not better"),
        (report(1.0, accuracy=0.9), report(5.0), False, "class accuracy fell by 0.090"),
        (report(float("nan")), report(5.0), False, "nan"),
        (report(float("inf")), None, False, "inf"),
        (report(1.0), report(5.0, evaluator="other"), False, "different evaluators"),
    ],
)
def test_only_a_measurably_better_candidate_wins(candidate, champion, promoted, told):
    decision = should_promote(candidate, champion)
    assert decision.promote is promoted
    assert told in decision.reason


def test_never_and_always_do_not_look():
    assert not should_promote(report(1.0), report(5.0), "never").promote
    assert should_promote(report(9.0), report(5.0), "always").promote


def test_a_champion_that_cannot_be_compared_stays():
    decision = should_promote(report(1.0), None, misfit="its classes are others")
    assert not decision.promote
    assert "its classes are others" in decision.reason
