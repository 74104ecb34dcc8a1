"""The table of settings and TrainConfig tell the same, and what a setting does not take is told."""

import subprocess
import sys
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from training.config import TrainConfig
from training.model.networks.config import NetworkConfig
from training.model.settings import NETWORK, SETTINGS, ConfigError, Setting, parse_settings
from training.presets import PRESETS


def test_the_table_has_the_settings_of_a_run_in_their_order():
    assert list(SETTINGS) == [f.name for f in fields(TrainConfig)]


@pytest.mark.parametrize(("name", "hint"), get_type_hints(TrainConfig).items())
def test_each_setting_takes_what_its_type_says(name: str, hint: object):
    setting = SETTINGS[name]
    if get_origin(hint) is Literal:
        assert (setting.kind, setting.choices) == (str, get_args(hint))
    elif setting.like:
        assert hint == tuple[setting.kind, ...]  # type: ignore[name-defined]
    else:
        assert setting.kind is hint
    assert setting.low < setting.high or setting.kind in (bool, str)


def test_the_networks_settings_are_all_that_a_network_has_beside_its_images():
    of_images = {"img_resolution", "img_channels", "num_classes"}
    assert set(NETWORK) == {f.name for f in fields(NetworkConfig)} - of_images


def test_a_preset_written_as_json_is_read_back_as_it_was():
    for preset in PRESETS.values():
        assert TrainConfig(**parse_settings(preset.to_json())) == preset


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lr": 1}, "setting 'lr' does not exist; settings: architecture, widths"),
        ({"gamma": 0.1, "beta1_g": 1}, "beta1_g is 1; expected 0 to 0.9999"),
        ({"mirror": "true"}, "mirror is 'true'; expected true or false"),
        ({"batch_size": True}, "batch_size is True; expected a whole number"),
        ({"augment": "AdA"}, "augment is 'AdA'; expected one of none, ada, ada_full, diffaugment"),
        ({"widths": "64,x"}, "widths is '64,x'; expected numbers, such as 64,32,16"),
        ({"widths": [64.5]}, "widths is (64.5,); expected numbers"),
        ({"widths": True}, "widths is True; expected numbers"),
        ({"eps": float("nan")}, "eps is nan; expected 0 to 1"),
    ],
)
def test_what_a_setting_does_not_take_is_told(given: dict[str, object], told: str):
    with pytest.raises(ConfigError) as error:
        parse_settings(given)
    assert told in str(error.value)


def test_numbers_come_as_a_list_as_text_or_as_one():
    for given in ([64, 32], "64,32", (64, 32)):
        assert parse_settings({"widths": given}) == {"widths": (64, 32)}
    assert Setting(float, 0, 1, like="0.1").parse(0.05) == (0.05,)


def test_the_table_needs_no_torch():
    code = "import sys, training.model.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
