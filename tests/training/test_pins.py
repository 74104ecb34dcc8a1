"""What a run goes back to after a collapse: the last state that a healthy window came after."""

import torch

from training.pins import begin_window, confirm_window, good_pointer, unpin
from training.presets import PRESETS
from training.state import TrainingState

TINY = PRESETS["tiny"]


def state_at(nimg: int) -> TrainingState:
    state = TrainingState(TINY, TINY.network(28, 1, 2), 0, torch.device("cpu"))
    state.cur_nimg = nimg
    return state


def kept(run_dir) -> list[int]:
    return sorted(int(p.name.split("-")[1]) for p in run_dir.glob("state-*.safetensors"))


def test_before_any_window_the_latest_state_is_the_good_one(tmp_path):
    state_at(10).save(tmp_path)
    pointer = good_pointer(tmp_path)
    assert pointer is not None
    assert pointer["cur_nimg"] == 10


def test_a_state_saved_inside_a_bad_window_is_not_gone_back_to(tmp_path):
    state_at(10).save(tmp_path)
    begin_window(tmp_path)
    state_at(20).save(tmp_path)
    confirm_window(tmp_path)  # healthy: what was saved before it is good
    begin_window(tmp_path)
    state_at(30).save(tmp_path)
    begin_window(tmp_path)  # the one before was bad
    state_at(40).save(tmp_path)
    pointer = good_pointer(tmp_path)
    assert pointer is not None
    assert pointer["cur_nimg"] == 10
    assert kept(tmp_path) == [10, 30, 40]
    back = state_at(0)
    back.roll_back(tmp_path, pointer, gamma_raise=3.0)
    assert (back.cur_nimg, back.rate, back.gamma_factor, back.rollbacks) == (10, 0.5, 3.0, 1)


def test_what_a_rollback_saves_does_not_replace_the_state_it_came_from(tmp_path):
    state_at(10).save(tmp_path)
    begin_window(tmp_path)
    confirm_window(tmp_path)
    for rollbacks in (1, 2):
        state = state_at(0)
        state.rollbacks = rollbacks - 1
        pointer = good_pointer(tmp_path)
        assert pointer is not None
        state.roll_back(tmp_path, pointer)  # its digest still fits
        assert state.rollbacks == rollbacks
        state.save(tmp_path)


def test_healthy_windows_let_go_of_older_states(tmp_path):
    for nimg in (10, 20, 30, 40):
        state_at(nimg).save(tmp_path)
        begin_window(tmp_path)
        confirm_window(tmp_path)
    assert kept(tmp_path) == [30, 40]
    state_at(50).save(tmp_path)
    assert kept(tmp_path) == [40, 50]
    unpin(tmp_path)
    assert kept(tmp_path) == [50]
    assert state_at(0).load(tmp_path)
