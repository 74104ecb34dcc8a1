"""The promotion rule: better, equal, worse, and everything that must not win."""

import json
from dataclasses import asdict

import pytest

from training.model.rules import Rules
from training.promotion import should_promote


def report(**changes):
    """Numbers of a fair generator of cats and dogs; None takes a number away."""
    told = {
        "num_samples": 10_000,
        "first_seed": 0,
        "group_size": 5_000,
        "evaluator": "0123456789ab",
        "dataset_hash": "data",
        "fd_cnn": 4.0,
        "fd_cnn_se": 0.3,
        "class_accuracy": 0.98,
        "class_accuracy_se": 0.002,
        "class_accuracy_by_class": {"cat": 0.98, "dog": 0.98},
        "class_share": {"cat": 0.5, "dog": 0.5},
        "class_share_reals": {"cat": 0.5, "dog": 0.5},
        "coverage": 0.9,
        "coverage_se": 0.003,
        "memorised": 0.011,
        "memorised_reals": 0.01,
        "memorised_se": 0.002,
    }
    return {name: v for name, v in {**told, **changes}.items() if v is not None}


def better(**changes):
    """As `report`, but nearer to real images than the other one's error can explain."""
    return report(**{"fd_cnn": 2.0, "fd_cnn_se": 0.4, **changes})


NAN, INF = float("nan"), float("inf")
FAR = "fd_cnn 2 is lower than the champion's 4 by more than 0.5"
UNCLASSED = dict.fromkeys(
    ("class_accuracy", "class_accuracy_by_class", "class_share", "class_share_reals")
)


@pytest.mark.parametrize(
    ("candidate", "promoted", "reason"),
    [
        (better(), True, f"better: {FAR}"),
        (report(), False, "fd_cnn 4 is not lower than the champion's 4 by more than 0.42"),
        # The hypotenuse of .3 and .4 is .5: 3.51 is better by less, 3.49 by more.
        (better(fd_cnn=3.51), False,
         "fd_cnn 3.51 is not lower than the champion's 4 by more than 0.5"),
        (better(fd_cnn=3.49), True,
         "better: fd_cnn 3.49 is lower than the champion's 4 by more than 0.5"),
        (report(fd_cnn=9.0), False,
         "fd_cnn 9 is not lower than the champion's 4 by more than 0.42"),
        (better(class_accuracy=0.95), False,
         "class_accuracy 0.95 is lower than the champion's 0.98 by more than 0.01"),
        (better(class_accuracy=0.971), True, f"better: {FAR}"),
        (better(class_accuracy_by_class={"cat": 0.12, "dog": 0.99}), False,
         "classes are read as asked much less often than the champion's: 'cat' (98.0% → 12.0%)"),
        (better(class_share={"cat": 0.01, "dog": 0.99}), False,
         "classes are much rarer among its images than the champion's: 'cat' (50.0% → 1.0%)"),
        (better(class_share={"dog": 1.0}), False,
         "classes are much rarer among its images than the champion's: 'cat' (50.0% → 0.0%)"),
        (better(coverage=0.88), False,
         "coverage 0.88 is lower than the champion's 0.9 by more than 0.013"),
        (better(coverage=0.89), True, f"better: {FAR}"),
        (better(memorised=0.4), False,
         "it memorises: 40.0% of its images are as close to a training image as 1.0% of held-out "
         "ones are"),
        # More than the rule allows, and no more than the error of a small sample explains.
        (better(memorised=0.06, memorised_se=0.02), True, f"better: {FAR}"),
        (better(memorised=0.04, memorised_se=0.001), True, f"better: {FAR}"),
        (better(fd_cnn=NAN), False, "the candidate's fd_cnn is nan"),
        (better(kid=INF), False, "the candidate's kid is inf"),
        (better(class_share={"cat": NAN, "dog": 0.5}), False,
         "the candidate's class_share.cat is nan"),
        (better(evaluator="ba9876543210"), False,
         "the evaluator is 'ba9876543210', the champion was measured with '0123456789ab': their "
         "numbers do not compare"),
        (report(evaluator="ba9876543210"), False,  # nothing is said of numbers that do not compare
         "the evaluator is 'ba9876543210', the champion was measured with '0123456789ab': their "
         "numbers do not compare"),
        (better(dataset_hash="others"), False,
         "the dataset is 'others', the champion was measured with 'data': their numbers do not "
         "compare"),
        (better(num_samples=5_000), False,
         "the number of samples is 5000, the champion was measured with 10000: their numbers do "
         "not compare"),
        (better(first_seed=7), False,
         "the first seed is 7, the champion was measured with 0: their numbers do not compare"),
        (better(evaluator=None), False,
         "it is not known which evaluator measured the candidate"),
        (better(coverage=0.5, memorised=0.4), False,
         "it memorises: 40.0% of its images are as close to a training image as 1.0% of held-out "
         "ones are; coverage 0.5 is lower than the champion's 0.9 by more than 0.013"),
    ],
)  # fmt: skip
def test_only_a_measurably_better_candidate_that_lost_nothing_wins(candidate, promoted, reason):
    decision = should_promote(candidate, report())
    assert (decision.promote, decision.reason) == (promoted, reason)
    assert promoted == all(check.passed for check in decision.checks)


@pytest.mark.parametrize(
    ("gone", "champion_too", "promoted", "reason"),
    [
        (UNCLASSED, True, True, f"better: {FAR}"),
        ({"coverage": None}, True, True, f"better: {FAR}"),
        ({"memorised": None}, True, True, f"better: {FAR}"),
        ({"memorised": None}, False, True, f"better: {FAR}"),
        ({"coverage": None}, False, False, "coverage was measured of the champion only"),
        ({"class_share": None}, False, False, "class_share was measured of the champion only"),
        ({"fd_cnn": None}, True, False, "fd_cnn of the champion was not measured"),
        ({"fd_cnn_se": None}, True, False, "fd_cnn_se of the champion was not measured"),
        ({"fd_cnn_se": None}, False, False, "fd_cnn_se was measured of the champion only"),
    ],
)
def test_a_number_nobody_measured_is_not_asked_for_except_the_distance(
    gone, champion_too, promoted, reason
):
    decision = should_promote(better(**gone), report(**gone) if champion_too else report())
    assert (decision.promote, decision.reason) == (promoted, reason)


def test_what_was_not_measured_is_neither_passed_nor_failed():
    few = {**UNCLASSED, "coverage": None, "memorised": None}
    decision = should_promote(better(**few), report(**few))
    told = {check.name: check.passed for check in decision.checks}
    assert told == {
        "finite": True,
        "evaluator": True,
        "memorised": None,
        "comparable": True,
        "fd_cnn": True,
        "class_accuracy": None,
        "coverage": None,
        "class_accuracy_by_class": None,
        "class_share": None,
    }


def test_never_keeps_and_tells_what_the_rules_would_have_done():
    assert should_promote(report(), report(), "never").reason == "promote is 'never'"
    decision = should_promote(better(), report(), "never")
    assert not decision.promote
    assert decision.reason == "promote is 'never'; the rules would have promoted it"


@pytest.mark.parametrize(
    ("candidate", "champion", "misfit", "promoted", "reason"),
    [
        (better(), report(), None, True, "promote is 'always'"),
        (report(fd_cnn=9), report(), None, True,
         "promote is 'always'; the rules would have kept the champion: fd_cnn 9 is not lower than "
         "the champion's 4 by more than 0.42"),
        (better(), None, "its classes are others", True,
         "promote is 'always'; the rules would have kept the champion: the champion cannot be "
         "compared: its classes are others"),
        (better(kid=NAN), report(), None, False, "the candidate's kid is nan"),
    ],
)  # fmt: skip
def test_always_takes_whatever_can_be_measured(candidate, champion, misfit, promoted, reason):
    decision = should_promote(candidate, champion, "always", misfit)
    assert (decision.promote, decision.reason) == (promoted, reason)


def test_a_champion_that_cannot_be_compared_stays():
    decision = should_promote(better(), None, misfit="its classes are others")
    assert not decision.promote
    assert decision.reason == "the champion cannot be compared: its classes are others"


@pytest.mark.parametrize("policy", ["if_better", "never", "always"])
def test_the_first_version_becomes_champion_and_its_faults_are_told(policy):
    first = "the first version of the model"
    assert should_promote(report(), None, policy).reason == first
    for fault, told in [
        ({"memorised": 1.0}, "it memorises: 100.0% of its images are as close to a training "
         "image as 1.0% of held-out ones are"),
        ({"fd_cnn": INF}, "the candidate's fd_cnn is inf"),
    ]:  # fmt: skip
        decision = should_promote(report(**fault), None, policy)
        assert decision.promote
        assert decision.reason == f"{first}; but {told}"


def classes(accuracy, num=1000):
    """A report on `num` samples of two classes, equally many, the first read with `accuracy`."""
    by_class = {"a": accuracy, "b": 1.0}
    shares = {"a": 0.5, "b": 0.5}
    return better(
        num_samples=num, class_accuracy_by_class=by_class, class_share_reals=shares,
        class_accuracy=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("num", "ours", "kept"),
    [
        (1000, 0.61, True),  # more than 3/4 of .8
        (1000, 0.59, False),
        # Of 20 images a class: p = (.8 + .34) / 2, and 3 √(2 p (1 - p) / 20) = .47 is above .46.
        (40, 0.34, True),
        (40, 0.30, False),  # p = .55, and .47 is below .50
        (4, 0.0, True),  # two images of a class say nothing
    ],
)
def test_a_class_is_lost_by_a_quarter_and_beyond_the_error_of_its_images(num, ours, kept):
    champion = {**classes(0.8, num), "fd_cnn": 4.0}
    assert should_promote(classes(ours, num), champion).promote is kept


def test_nobody_has_to_beat_real_images():
    plain = report(class_accuracy=1.0, class_accuracy_reals=0.97, coverage=0.99, coverage_reals=0.9)
    decision = should_promote(better(class_accuracy=0.965, coverage=0.89), plain)
    assert decision.promote
    assert "class_accuracy 0.965 is not lower than real images at 0.97 by more than 0.01" in [
        check.sentence for check in decision.checks
    ]
    assert not should_promote(better(class_accuracy=0.95), plain).promote


def test_a_champion_that_made_too_many_of_a_class_does_not_bind_its_successor():
    collapsed = report(class_share={"cat": 1.0, "dog": 0.0})
    assert should_promote(better(class_share={"cat": 0.5, "dog": 0.5}), collapsed).promote
    assert not should_promote(better(class_share={"cat": 0.2, "dog": 0.8}), collapsed).promote


def test_of_many_lost_classes_the_first_are_named():
    there = {f"c{i}": 0.1 for i in range(10)}
    gone = {**dict.fromkeys(there, 0.0), "c0": 1.0}
    decision = should_promote(better(class_share=gone), report(class_share=there))
    assert decision.reason.endswith("'c5' (10.0% → 0.0%) and 4 more")


def test_the_rules_decide_and_are_told_with_the_decision():
    strict, lax = Rules(fd_errors=5), Rules(loss_errors=10, class_kept=0.1, max_memorised=0.5)
    assert not should_promote(better(), report(), rules=strict).promote
    worse = better(memorised=0.4, coverage=0.86, class_share={"cat": 0.06, "dog": 0.94})
    assert not should_promote(worse, report()).promote
    decision = should_promote(worse, report(), rules=lax)
    assert decision.promote
    assert decision.rules == lax


def test_a_decision_is_plain_json():
    told = json.loads(json.dumps(asdict(should_promote(better(), report(), "if_better"))))
    assert told["rules"] == asdict(Rules())
    assert told["policy"] == "if_better"
    assert told["checks"][0] == {
        "name": "finite",
        "passed": True,
        "sentence": "all its numbers are finite",
    }
