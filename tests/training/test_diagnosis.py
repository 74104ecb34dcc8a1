from typing import Any

import pytest

from training.diagnosis import CLASS_BEHIND, D_WINS_GAP, FAR_FROM_FLOOR, warnings_of
from training.history import History


def history(**parts: Any) -> History:
    empty = History({}, {}, {}, {}, [], [], [], [])
    return History(**{**vars(empty), **parts})


def trained_with(loss: str) -> dict[str, Any]:
    return {"asked": {"config": {"loss": loss}}}


def ticks(name: str, values: list[float]) -> list[dict[str, float]]:
    return [{"cur_nimg": 64 * (i + 1), name: value} for i, value in enumerate(values)]


def measured(fds: list[float], floor: float = 1.0) -> list[dict[str, float]]:
    return [
        {"cur_nimg": 1000 * (i + 1), "fd_cnn": fd, "fd_cnn_floor": floor}
        for i, fd in enumerate(fds)
    ]


def only(told: History) -> str:
    (warning,) = warnings_of(told)
    return warning


def test_a_run_that_told_nothing_is_warned_of_nothing():
    assert warnings_of(history()) == []


def test_a_sound_run_is_warned_of_nothing():
    told = history(
        run=trained_with("relativistic"),
        stats=[
            {"cur_nimg": n, "logit_gap": 1.2, "images_per_sec": 500.0} for n in range(64, 6400, 64)
        ],
        metrics={
            "num_samples": 5000,
            "fd_cnn": 1.1,
            "fd_cnn_floor": 0.86,
            "class_accuracy_by_class": {"0": 0.99, "1": 0.97},
        },
        evaluations=measured([400, 30, 4, 1.4]),
        class_counts={"0": 5000, "1": 5600},
    )
    assert warnings_of(told) == []


def test_what_the_run_warned_of_itself_is_passed_on_once():
    event = {"cur_nimg": 0, "event": "warning", "text": "class 'cat' has 3 images"}
    resumed = {"cur_nimg": 64, "event": "resumed", "text": "resumed"}
    assert only(history(events=[event, resumed, event])) == "class 'cat' has 3 images"


@pytest.mark.parametrize(("times", "said"), [(1, "once"), (2, "twice"), (3, "3 times")])
def test_rollbacks_are_counted(times, said):
    events = [{"cur_nimg": 512, "event": "rolled_back", "text": ""}] * times
    assert f"rolled back {said}" in only(history(events=events))


def test_a_d_that_wins_at_the_end_is_told_with_what_to_try():
    gaps = [1.0] * 90 + [D_WINS_GAP + 0.1] * 10
    warning = only(history(run=trained_with("relativistic"), stats=ticks("logit_gap", gaps)))
    assert "4.1" in warning
    assert "raise gamma" in warning
    assert "lower lr_d" in warning


def test_a_d_that_won_only_at_the_start_is_no_matter():
    gaps = [9.0] * 90 + [D_WINS_GAP - 0.1] * 10
    assert not warnings_of(
        history(run=trained_with("relativistic"), stats=ticks("logit_gap", gaps))
    )


@pytest.mark.parametrize("loss", ["hinge", "wasserstein", "least_squares"])
def test_logits_that_are_no_log_odds_are_not_judged_as_such(loss):
    assert not warnings_of(history(run=trained_with(loss), stats=ticks("logit_gap", [50.0] * 20)))


def test_a_run_that_slowed_to_less_than_half_is_told():
    slowed = history(stats=ticks("images_per_sec", [500.0] * 30 + [200.0] * 10))
    assert "from 500 to 200 images/s" in only(slowed)


def test_single_slow_ticks_and_short_runs_are_no_slowdown():
    assert not warnings_of(history(stats=ticks("images_per_sec", [500.0, 500.0, 500.0, 90.0] * 10)))
    assert not warnings_of(history(stats=ticks("images_per_sec", [500.0] * 10 + [90.0] * 9)))


def test_uneven_classes_are_named():
    warning = only(history(class_counts={"cat": 1000, "dog": 200, "owl": 600}))
    assert "1,000 images of 'cat', 200 of 'dog'" in warning
    assert not warnings_of(history(class_counts={"cat": 1000, "dog": 201}))
    assert not warnings_of(history(class_counts={"cat": 1000}))
    assert "0 of 'dog'" in only(history(class_counts={"cat": 1, "dog": 0}))


def test_a_class_far_behind_the_others_is_named_with_its_accuracy():
    by_class = {"cat": 0.9, "dog": 0.95, "owl": 0.95 - CLASS_BEHIND - 0.1, "fox": 0.96}
    assert "'owl' (65%)" in only(history(metrics={"class_accuracy_by_class": by_class}))


def test_of_many_classes_behind_the_worst_are_named():
    by_class = {f"good {i}": 0.9 for i in range(10)} | {f"bad {i}": i / 20 for i in range(5)}
    warning = only(history(metrics={"class_accuracy_by_class": by_class}))
    assert "'bad 0' (0%), 'bad 1' (5%), 'bad 2' (10%) and 2 more" in warning


def test_classes_that_are_all_bad_are_not_behind_one_another():
    by_class = dict.fromkeys("abcdef", 0.1)
    assert not warnings_of(history(metrics={"class_accuracy_by_class": by_class}))


def test_a_distance_still_falling_far_from_its_floor_asks_for_more_training():
    warning = only(history(evaluations=measured([100, 50, 30, 20])))
    assert "train longer" in warning
    assert "from 30" in warning


@pytest.mark.parametrize(
    "fds",
    [[100, 50, 30, 29], [100, 2, 1.8, 1.4], [100, 50, 20]],
    ids=["no longer falling", "near the floor", "too few to tell"],
)
def test_a_distance_that_stands_still_or_is_near_its_floor_does_not(fds):
    assert not warnings_of(history(evaluations=measured(fds)))


def test_a_result_far_from_its_floor_is_told_once():
    metrics = {"fd_cnn": FAR_FROM_FLOOR, "fd_cnn_floor": 1.0}
    assert "10 times its floor" in only(history(metrics=metrics))
    assert "still falling" in only(
        history(metrics=metrics, evaluations=measured([100, 50, 30, 20]))
    )
    assert not warnings_of(history(metrics={"fd_cnn": 5.0, "fd_cnn_floor": 0.0}))
