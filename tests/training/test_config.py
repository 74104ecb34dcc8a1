"""Settings of a run: what is refused, and that presets and their public face agree."""

import pytest
import torch

from training.config import ConfigError, TrainConfig, override
from training.model.networks.build import build_discriminator, build_generator, num_parameters
from training.model.presets import PRESETS as PRESET_INFO
from training.model.settings import parse_overrides
from training.plan import Length
from training.presets import PRESETS, preset_for
from training.schedules import moment_at


def test_every_preset_is_known_to_the_service_and_makes_what_it_says():
    assert set(PRESETS) == set(PRESET_INFO)
    for name, info in PRESET_INFO.items():
        for resolution in info.resolutions or (28,):
            PRESETS[name].network(resolution, 3, 10)


# Huang et al. 2024 give these counts in millions, G / D: 20.73/20.68, 20.78/21.28, 22.43/22.38,
# 23.06/23.01.
@pytest.mark.parametrize(
    ("preset", "resolution", "num_classes", "g", "d"),
    [
        ("r3gan-stacked-mnist", 32, 0, 20_732_160, 20_683_776),
        ("r3gan-cifar10", 32, 10, 20_781_952, 21_280_512),
        ("r3gan-ffhq64", 64, 0, 22_429_824, 22_381_440),
        ("r3gan-ffhq256", 256, 0, 23_057_952, 23_009_568),
    ],
)
def test_published_presets_have_the_published_parameter_counts(
    preset, resolution, num_classes, g, d
):
    network = PRESETS[preset].network(resolution, 3, num_classes)
    with torch.device("meta"):
        assert num_parameters(build_generator(network)) == g
        assert num_parameters(build_discriminator(network)) == d


@pytest.mark.parametrize(
    ("preset", "batch", "total", "burn_in", "gamma", "gamma_final", "half_life", "augment_p"),
    [
        ("r3gan-stacked-mnist", 512, 10e6, 2e6, 1, 0.1, 0.5e6, 0),
        ("r3gan-cifar10", 512, 250e6, 20e6, 0.05, 0.005, 5e6, 0.55),
        ("r3gan-ffhq64", 256, 100e6, 20e6, 2, 0.2, 0.5e6, 0.3),
        ("r3gan-ffhq256", 256, 200e6, 20e6, 150, 15, 0.5e6, 0.3),
    ],
)
def test_published_presets_move_as_published(
    preset, batch, total, burn_in, gamma, gamma_final, half_life, augment_p
):
    config = PRESETS[preset]
    begin, end = moment_at(config, 0, int(total)), moment_at(config, int(burn_in), int(total))
    assert config.batch_size == batch
    assert (begin.gamma, end.gamma) == pytest.approx((gamma, gamma_final))
    assert (begin.lr_g, end.lr_d) == pytest.approx((2e-4, 5e-5))
    assert (begin.beta2_g, end.beta2_d, config.beta1_g) == pytest.approx((0.9, 0.99, 0))
    assert (begin.ema_half_lives, end.ema_half_lives) == ((0.0,), pytest.approx((half_life,)))
    assert (begin.augment_p, end.augment_p) == pytest.approx((0, augment_p))


def test_cpu28_has_the_size_of_the_recipe():
    network = PRESETS["cpu28"].network(28, 1, 10)
    assert num_parameters(build_generator(network)) == pytest.approx(0.40e6, rel=0.03)
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
        ("loss=mse", "loss is 'mse'; expected one of relativistic, non_saturating"),
        ("loss=[1]", "loss is [1]"),
        ("widths=a,b", "widths is 'a,b'"),
        ("widths=[]", "widths is (); expected numbers, such as 64,32,16"),
        ("widths=0,4", "widths is (0, 4); expected 1 to 4096"),
        ("ema_fractions=2", "ema_fractions is (2.0,); expected 0 to 1"),
        ("mirror=1", "mirror is 1; expected true or false"),
        ("label_smoothing=0.1", "loss=relativistic has no label to smooth"),
        ("accumulation=7", "accumulation is 7, which does not divide batch_size 16"),
        ("augment_p=0.3", "augment is none"),
        ("augment_schedule=adaptive", "augment is none"),
        ("augment=ada", "augment=ada with augment_p=0 changes no image"),
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


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["loss=wasserstein", "gamma=0", "gamma_final=0"], "use gp_weight=10, spectral_norm=true"),
        (["compile=default", "penalty=exact"], "use compile=off, or penalty=finite_difference"),
        (["compile=default", "gp_weight=10"], "cannot differentiate twice"),
        (["objective=vae", "architecture=dense"], "needs architecture=strided, not dense"),
        (["objective=vae", "augment=ada", "augment_p=1"], "use augment=none"),
        (["objective=vae", "class_weight_d=1"], "use class_weight_d=0 and class_weight_g=0"),
        (["class_weight_g=0.1"], "use class_weight_d=1 or class_weight_g=0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_what_would_work(texts, told):
    with pytest.raises(ConfigError) as error:
        override(PRESETS["cpu28"], parse_overrides(texts))
    assert told in str(error.value)


def test_spectral_norm_contradicts_networks_built_without_normalisation():
    with pytest.raises(ConfigError, match="spectral_norm is True, but architecture 'r3gan'"):
        override(PRESETS["lite32"], {"spectral_norm": True}).network(32, 3, 10)


@pytest.mark.parametrize("length", [{}, {"minutes": 1, "kimg": 1}, {"minutes": 0}, {"kimg": -1}])
def test_a_run_has_exactly_one_length_above_nothing(length):
    with pytest.raises(ConfigError):
        Length(**length)
