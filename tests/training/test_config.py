"""Settings of a run: what is refused, and that presets and their public face agree."""

import pytest

from training.config import (
    PRESETS,
    ConfigError,
    TrainConfig,
    override,
    parse_overrides,
    preset_for,
)
from training.model.networks.build import build_discriminator, build_generator, num_parameters
from training.model.presets import PRESETS as PRESET_INFO
from training.plan import Length


def test_every_preset_is_known_to_the_service_and_makes_what_it_says():
    assert set(PRESETS) == set(PRESET_INFO)
    for name, info in PRESET_INFO.items():
        for resolution in info.resolutions or (28,):
            PRESETS[name].network(resolution, 3, 10)


def test_cpu28_has_the_size_of_the_recipe():
    network = PRESETS["cpu28"].network(28, 1, 10)
    assert num_parameters(build_generator(network)) == pytest.approx(0.39e6, rel=0.03)
    assert num_parameters(build_discriminator(network)) == pytest.approx(0.48e6, rel=0.03)


def test_a_strided_network_starts_from_eight_pixels_or_fewer():
    for resolution in (28, 32, 64, 128, 256):
        assert PRESETS["tiny"].network(resolution, 1, 0).start_resolution <= 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gama=1", "'gama' does not exist"),
        ("gamma=-1", "gamma is -1; expected 0 to 10000"),
        ("gamma=NaN", "gamma is nan"),
        ("gamma=yes", "gamma is 'yes'; expected a number"),
        ("batch_size=2.5", "batch_size is 2.5; expected a whole number"),
        ("batch_size=1", "batch_size is 1"),
        ("loss=mse", "loss is 'mse'; expected one of relativistic, non_saturating, hinge"),
        ("loss=[1]", "loss is [1]"),
        ("widths=a,b", "widths is 'a,b'"),
        ("widths=[]", "widths is ()"),
        ("lr_g=true", "lr_g is True; expected a number"),
        ("nothing", "expected key=value"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_what_it_takes(text, told):
    with pytest.raises(ConfigError) as error:
        override(PRESETS["cpu28"], parse_overrides([text]))
    assert told in str(error.value)


def test_settings_are_read_as_numbers_words_and_lists():
    config = override(
        PRESETS["cpu28"], parse_overrides(["gamma=.5", "loss=hinge", "widths=32,16", "lr_d=1e-4"])
    )
    assert isinstance(config, TrainConfig)
    assert (config.gamma, config.loss, config.widths, config.lr_d) == (0.5, "hinge", (32, 16), 1e-4)


def test_the_preset_that_fits_is_chosen_and_a_misfit_is_told_a_better_one():
    assert preset_for(None, 28, 1) == "cpu28"
    assert preset_for(None, 64, 3) == "tiny"
    with pytest.raises(ConfigError, match=r"'cpu28' makes 28 pixels a side, not 32; use 'cpu32'"):
        preset_for("cpu28", 32, 3)
    with pytest.raises(ConfigError, match="'nope' does not exist; presets: cpu28"):
        preset_for("nope", 28, 1)
    with pytest.raises(ConfigError, match="import the images at 28"):
        preset_for(None, 29, 1)


@pytest.mark.parametrize("length", [{}, {"minutes": 1, "kimg": 1}, {"minutes": 0}, {"kimg": -1}])
def test_a_run_has_exactly_one_length_above_nothing(length):
    with pytest.raises(ConfigError):
        Length(**length)
