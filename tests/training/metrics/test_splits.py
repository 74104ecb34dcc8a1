"""Which real images do what: nothing twice, and the same shares of each class."""

from dataclasses import replace

import numpy as np

from training.metrics.splits import real_blocks, split, spread, trained_rows


def test_every_image_has_one_part_and_the_held_out_ones_are_the_reference(bars):
    rows = split(bars)
    everyone = np.concatenate([rows.reference, rows.others, rows.learnt])
    assert np.array_equal(np.sort(everyone), np.arange(bars.num_images))
    assert np.array_equal(np.sort(rows.reference), np.flatnonzero(bars.heldout))


def test_the_others_have_the_reference_s_share_of_each_class_in_every_smaller_sample(bars):
    rows = split(bars)
    for n in (240, 120, 31):
        here, there = (
            np.bincount(bars.labels[spread(part, n)], minlength=3)
            for part in (rows.reference, rows.others)
        )
        assert np.array_equal(here, there)
        assert here.max() - here.min() <= 1


def test_a_class_keeps_half_of_its_training_images_for_the_evaluator(bars):
    heldout = bars.heldout | (bars.labels == 0) & (np.arange(bars.num_images) % 5 > 0)
    rows = split(replace(bars, heldout=heldout))
    trained = int(((bars.labels == 0) & ~heldout).sum())
    assert (bars.labels[rows.others] == 0).sum() == trained // 2


def test_images_without_labels_are_split_as_one_class(make_bars):
    rows = split(make_bars(100, labelled=False))
    assert [len(rows.reference), len(rows.others), len(rows.learnt)] == [10, 10, 80]


def test_a_spread_sample_repeats_nothing_and_asks_for_no_more_than_there_is():
    rows = np.arange(100, 200)
    assert len(np.unique(spread(rows, 37))) == 37
    assert np.array_equal(spread(rows, 1000), rows)
    assert len(spread(rows[:0], 5)) == 0


def test_blocks_are_the_images_of_the_rows_in_their_order(bars):
    rows = trained_rows(bars)[::-1]
    blocks = list(real_blocks(bars, rows))
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), bars.images[rows])
