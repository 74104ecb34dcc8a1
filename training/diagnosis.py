"""Owns what a run's numbers warn of, in plain words and with what to try."""

from collections.abc import Iterator
from statistics import fmean, median

from training.history import History, Row, number

# Runs on digits that ended near the floor stood at gaps of 1 to 1.5; the ones that had learned
# little stood at 4 to 9. At 4, D bets e⁴ = 55 to 1 on a pair and is right.
D_WINS_GAP = 4.0
# Whose logits are log odds: a gap in a hinge or Wasserstein D has another meaning, or none.
LOG_ODDS = ("relativistic", "non_saturating", "minimax")
END = 0.1  # of the ticks is read as how a run ended: one tick is a few noisy steps

# Medians of the first and the last quarter, so that a slow snapshot or one busy minute is no alarm.
SLOWED_RATIO, SPEED_TICKS = 0.5, 20

# Two standard errors of a class of 25 samples at .5, the worst case.
CLASS_BEHIND = 0.2
NAMED_CLASSES = 3

# A class five times rarer is seen five times less often, by G, D and the evaluator alike.
UNBALANCED_RATIO = 5.0

# Within half of the floor little is left to gain. Standard errors of fd_cnn were 2 to 10 % in runs
# on digits, so a fall of a tenth over the last quarter is seldom chance.
NEAR_FLOOR, STILL_FALLING, FALL_FRACTION, FALL_EVALUATIONS = 1.5, 0.9, 0.25, 4

# Digits are read right 99 times in 100 at 6 times the floor; from 10 on, an eye sees the faults.
FAR_FROM_FLOOR = 10.0


def warnings_of(told: History) -> list[str]:
    """A sentence or two for each thing that looks wrong; only of what the run has told."""
    return [
        *_said(told.events),
        *_rolled_back(told.events),
        *_d_wins(told.stats, told.config),
        *_slowed(told.stats),
        *_unbalanced(told.class_counts),
        *_classes_behind(told.metrics),
        *(_still_falling(told.evaluations) or _far_from_floor(told.metrics)),
    ]


def _said(events: list[Row]) -> list[str]:
    return list(
        dict.fromkeys(str(e.get("text", "")) for e in events if e.get("event") == "warning")
    )


def _rolled_back(events: list[Row]) -> Iterator[str]:
    times = sum(e.get("event") == "rolled_back" for e in events)
    if times:
        yield (
            f"The run diverged and was rolled back {_times(times)}, to go on with lower rates. "
            "Start the next one with lower lr_g and lr_d, or a higher gamma."
        )


def _d_wins(stats: list[Row], config: Row) -> Iterator[str]:
    gaps = _values(stats[-max(1, int(END * len(stats))) :], "logit_gap")
    if gaps and config.get("loss") in LOG_ODDS and fmean(gaps) >= D_WINS_GAP:
        yield (
            f"D is winning: it tells real from generated with a logit gap of {fmean(gaps):.1f}, "
            "where good runs end at 1 to 2, and G learns little from it. If the pictures no longer "
            "improve, raise gamma or lower lr_d; with few images, bring more or augment them."
        )


def _slowed(stats: list[Row]) -> Iterator[str]:
    speeds = _values(stats, "images_per_sec")
    if len(speeds) < SPEED_TICKS:
        return
    first, last = median(speeds[: len(speeds) // 4]), median(speeds[-(len(speeds) // 4) :])
    if last < SLOWED_RATIO * first:
        yield (
            f"Speed fell from {first:,.0f} to {last:,.0f} images/s during the run. "
            "Another program may be using the machine, or it runs hot."
        )


def _unbalanced(counts: dict[str, int]) -> Iterator[str]:
    if len(counts) < 2:
        return
    rare, common = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[common] >= UNBALANCED_RATIO * counts[rare]:
        yield (
            f"The classes are uneven: {counts[common]:,} images of {common!r}, "
            f"{counts[rare]:,} of {rare!r}. Rare classes come out worse; bring more of them."
        )


def _classes_behind(metrics: Row) -> Iterator[str]:
    """Classes read as asked far less often than the median one."""
    by_class = metrics.get("class_accuracy_by_class", {})
    if len(by_class) < 2:
        return
    middle = median(by_class.values())
    behind = {k: v for k, v in by_class.items() if middle - v >= CLASS_BEHIND}
    if behind:
        worst = sorted(behind, key=behind.__getitem__)[:NAMED_CLASSES]
        named = ", ".join(f"{name!r} ({behind[name]:.0%})" for name in worst)
        more = f" and {len(behind) - len(worst)} more" if len(behind) > len(worst) else ""
        yield (
            f"Some classes are far behind the others, which are read as asked {middle:.0%} of the "
            f"time: {named}{more}. Look at their column, and at whether their images are like the "
            "rest; train longer or bring more of them."
        )


def _still_falling(evaluations: list[Row]) -> list[str]:
    rows = [row for row in evaluations if number(row.get("fd_cnn")) is not None]
    if len(rows) < FALL_EVALUATIONS:
        return []
    last, floor = rows[-1], number(rows[-1].get("fd_cnn_floor"))
    since = (1 - FALL_FRACTION) * last["cur_nimg"]
    before = [row["fd_cnn"] for row in rows if row["cur_nimg"] <= since][-1:]
    if not before or floor is None or last["fd_cnn"] <= NEAR_FLOOR * floor:
        return []
    if last["fd_cnn"] > STILL_FALLING * before[0]:
        return []
    return [
        f"fd_cnn is {last['fd_cnn']:.3g}, its floor {floor:.3g}, and it was still falling "
        f"(from {before[0]:.3g} over the last quarter): train longer."
    ]


def _far_from_floor(metrics: Row) -> list[str]:
    fd, floor = number(metrics.get("fd_cnn")), number(metrics.get("fd_cnn_floor"))
    if fd is None or not floor or fd < FAR_FROM_FLOOR * floor:
        return []
    return [
        f"fd_cnn is {fd / floor:.0f} times its floor: the pictures are still easy to tell from "
        "real ones. Train longer, or take a larger preset."
    ]


def _values(rows: list[Row], name: str) -> list[float]:
    return [value for row in rows if (value := number(row.get(name))) is not None]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
