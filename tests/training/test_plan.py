"""What a run was asked for, and whether it is asked for the same when it goes on."""

import json

import pytest

from training.config import ConfigError
from training.model.files import write_json
from training.plan import Length, Plan, asked_for, store_plan, stored_plan
from training.presets import PRESETS

TINY = PRESETS["tiny"]
ASKED = asked_for(TINY, "tiny", Length(kimg=1), 0, "0" * 64)


@pytest.fixture
def run_dir(tmp_path):
    plan = Plan(TINY, TINY.network(28, 1, 2), False, 0, 1000, None, ASKED)
    store_plan(plan, tmp_path, {})
    return tmp_path


def forget_setting(run_dir, name: str) -> None:
    stored = json.loads((run_dir / "run.json").read_text())
    del stored["asked"]["config"][name]
    write_json(run_dir / "run.json", stored)


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(run_dir):
    forget_setting(run_dir, "class_balance")
    plan = stored_plan(run_dir, TINY, ASKED)
    assert plan is not None
    assert plan.total_nimg == 1000


def test_a_run_from_before_a_setting_existed_is_no_run_of_another_value(run_dir):
    forget_setting(run_dir, "class_balance")
    asked = {**ASKED, "config": {**ASKED["config"], "class_balance": True}}
    with pytest.raises(ConfigError, match=r"config\.class_balance was False, is now True"):
        stored_plan(run_dir, TINY, asked)
