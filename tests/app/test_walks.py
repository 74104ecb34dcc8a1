"""Where the frames of a walk lie, against closed forms."""

import numpy as np
import pytest

from app.ask import Ask
from app.walks import Walk, lerp, slerp, stops, walked
from training.model.sampling import classes_of, latents_of

SPACES = ["slerp", "lerp"]


def line(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def at(*t: float) -> np.ndarray:
    return np.array(t)[:, None]


# One leg


def test_slerp_of_unit_vectors_is_shoemakes_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 16)))
    t = at(0.2, 0.5, 0.9)
    angle = np.arccos(a @ b)
    expected = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    assert np.allclose(slerp(a, b, t), expected, atol=1e-12)


def test_slerp_turns_evenly_and_its_norm_grows_evenly() -> None:
    way = slerp(line(1, 0), line(0, 3), at(0, 1 / 3, 2 / 3, 1))
    norms = np.linalg.norm(way, axis=1)
    assert norms == pytest.approx([1, 5 / 3, 7 / 3, 3])
    assert np.degrees(np.arctan2(way[:, 1], way[:, 0])) == pytest.approx([0, 30, 60, 90])


def test_slerp_stays_in_the_shell_that_a_straight_line_leaves() -> None:
    a, b = latents_of([1, 2], 512).astype(np.float64)
    t = at(*np.linspace(0, 1, 9))
    # Norms of N(0, I) in 512 dimensions: √512 ≈ 22.6, deviation .71; 5 of them is 16 %.
    assert np.linalg.norm(slerp(a, b, t), axis=1) / 512**0.5 == pytest.approx(1, abs=0.16)
    assert np.linalg.norm(lerp(a, b, t), axis=1).min() / 512**0.5 < 0.8


def test_lerp_is_the_straight_line() -> None:
    assert lerp(line(0, 4), line(2, 0), at(0, 0.25, 1)).tolist() == [[0, 4], [0.5, 3], [2, 0]]


def test_equal_directions_change_in_norm_alone() -> None:
    way = slerp(line(3, 4), line(6, 8), at(0, 0.5, 1))
    assert way == pytest.approx(np.array([[3, 4], [4.5, 6], [6, 8]]))
    assert slerp(line(3, 4), line(3, 4), at(0.3)) == pytest.approx(np.array([[3, 4]]))


@pytest.mark.parametrize("nearly", [0, 1e-12, 1e-9, 1e-7, 1e-4])
def test_opposite_directions_turn_half_a_circle_without_leaving_the_shell(nearly: float) -> None:
    a, b = line(2, 0, 0), line(-2, nearly, 0)
    way = slerp(a, b, at(0, 0.25, 0.5, 0.75, 1))
    assert np.linalg.norm(way, axis=1) == pytest.approx(2)
    assert way @ a / 4 == pytest.approx([1, 0.5**0.5, 0, -(0.5**0.5), -1], abs=1e-4)
    assert way[-1] == pytest.approx(b, abs=1e-8)


def test_a_zero_vector_lies_on_a_straight_line_to_the_other() -> None:
    assert slerp(line(0, 0), line(2, 4), at(0, 0.5, 1)).tolist() == [[0, 0], [1, 2], [2, 4]]
    assert slerp(line(2, 4), line(0, 0), at(0.5)).tolist() == [[1, 2]]
    assert slerp(line(0, 0), line(0, 0), at(0.5)).tolist() == [[0, 0]]


def test_one_dimension_has_only_one_way() -> None:
    assert slerp(line(2), line(4), at(0.5)).tolist() == [[3]]
    assert slerp(line(2), line(-2), at(0, 0.5, 1)) == pytest.approx(np.array([[2], [0], [-2]]))


@pytest.mark.parametrize("scale", [1e-30, 1e6])
def test_no_latent_is_too_large_or_too_small(scale: float) -> None:
    a, b = latents_of([1, 2], 8).astype(np.float64)
    t = at(0, 0.3, 1)
    assert slerp(a * scale, b * scale, t) / scale == pytest.approx(slerp(a, b, t))


# Many keys


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(("n", "frames"), [(2, 2), (2, 5), (3, 3), (3, 10), (7, 24), (5, 1024)])
def test_every_key_is_a_frame_to_the_bit(space, loop: bool, n: int, frames: int) -> None:
    keys = latents_of(range(n), 8)
    way = walked(keys, frames, space, loop)
    assert (way.shape, way.dtype) == ((frames, 8), np.float32)
    assert np.isfinite(way).all()
    places = stops(n, frames, loop)[:n]
    assert np.array_equal(way[places], keys)
    assert places[0] == 0
    assert loop or places[-1] == frames - 1
    others = np.delete(way, places, axis=0)
    assert not (others[:, None] == keys).all(axis=2).any()


@pytest.mark.parametrize("space", SPACES)
def test_keys_of_any_range_stay_what_they_are(space) -> None:
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.uniform(-44, 6, (64, 16))
    keys = (rng.choice([-1, 1], scales.shape) * scales).astype(np.float32)
    assert np.array_equal(walked(keys, 190, space, loop=False)[::3], keys)


def test_the_space_is_the_one_asked_for() -> None:
    keys = np.array([[2, 0], [0, 2]], np.float32)
    assert walked(keys, 3, "slerp", loop=False)[1] == pytest.approx([2**0.5, 2**0.5])
    assert walked(keys, 3, "lerp", loop=False)[1] == pytest.approx([1, 1])


def test_an_open_walk_takes_equal_steps_where_frames_divide() -> None:
    way = walked(np.array([[0], [4], [0]], np.float32), 9, "lerp", loop=False)
    assert way[:, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0]


def test_a_loop_leads_back_to_its_beginning_without_showing_it_twice() -> None:
    way = walked(np.array([[0], [4]], np.float32), 8, "lerp", loop=True)
    assert way[:, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


def test_where_frames_do_not_divide_legs_differ_by_one_frame() -> None:
    assert stops(4, 12, loop=False) == [0, 3, 7, 11]
    assert stops(3, 10, loop=True) == [0, 3, 6, 10]


# Latents and classes of a version


def test_frames_go_between_what_the_keys_stand_for(toy) -> None:
    loaded = toy.context.engine.get("toy", None)
    keys = Ask(loaded, [100, 101, 102], None, None, 0.5)
    z, c = Walk(keys, 9, "lerp", loop=False).draw()
    own = latents_of([100, 101, 102], 8) * np.float32(0.5)
    assert np.array_equal(z[[0, 4, 8]], own)
    assert z[2] == pytest.approx((own[0] + own[1]) / 2)
    one_hot = np.eye(3)[classes_of([100, 101, 102], 3)]
    assert np.array_equal(c[[0, 4, 8]], one_hot)
    assert np.allclose(c[1], 0.75 * one_hot[0] + 0.25 * one_hot[1])
    assert c.sum(axis=1) == pytest.approx(1)


def test_classes_go_straight_where_latents_turn(toy) -> None:
    loaded = toy.context.engine.get("toy", None)
    keys = Ask(loaded, [1, 2], None, np.array([0, 2]), 1.0)
    _, c = Walk(keys, 5, "slerp", loop=False).draw()
    assert c.tolist() == [[1, 0, 0], [0.75, 0, 0.25], [0.5, 0, 0.5], [0.25, 0, 0.75], [0, 0, 1]]
