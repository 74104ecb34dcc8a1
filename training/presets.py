"""Owns the presets: complete sets of choices that are known to work together."""

from dataclasses import replace

from training.config import ConfigError, TrainConfig
from training.model.presets import PRESETS as PRESET_INFO
from training.model.presets import fitting

_STRIDED = TrainConfig(
    architecture="strided",
    widths=(64, 32, 16),
    modulation=True,
    batch_size=16,
    gamma_final=0.01,
    lr_final_ratio=0.1,
)

# Rates, β2, weights and shapes as published: Huang et al. 2024, arXiv 2501.05441, appendix. The
# fractions are the published images over the published length (stacked-mnist 10, cifar10 250,
# ffhq64 100, ffhq256 200 million images), so that a shorter run has the same shape.
_R3GAN = TrainConfig(
    architecture="r3gan",
    widths=(768, 768, 768, 768),
    penalty="exact",
    lr_g=2e-4,
    lr_d=2e-4,
    lr_final_ratio=0.25,
    embed_dim=64,
)
_R3GAN_FFHQ = replace(_R3GAN, batch_size=256, augment="ada", augment_p=0.3, mirror=True)

# A quarter of the published parameters, the finite-difference penalty, larger groups for tensor
# cores and rates for some minutes to some hours of one data-centre GPU.
_LITE = replace(
    _R3GAN,
    widths=(512, 512, 256, 128),
    penalty="finite_difference",
    group_size=32,
    lr_g=4e-4,
    lr_d=4e-4,
    batch_size=256,
    burn_in_fraction=0.4,
    ema_fractions=(0.02, 0.05),
    mirror=True,
)

PRESETS: dict[str, TrainConfig] = {
    "cpu28": replace(_STRIDED, ema_fractions=(0.05,)),
    "cpu32": replace(_STRIDED, widths=(128, 64, 32)),
    "tiny": replace(_STRIDED, widths=(16, 8), z_dim=16, embed_dim=8, feature_dim=16),
    # Seven minutes of an H100 on CIFAR-10: docs/log.md, 2026-11-26.
    "gpu32": replace(
        _STRIDED,
        widths=(320, 256, 128),
        feature_dim=256,
        batch_size=256,
        lr_g=7e-4,
        lr_d=7e-4,
        gamma=0.02,
        gamma_final=0.002,
        class_weight_d=1.0,
        class_weight_g=0.6,
        burn_in_fraction=0.6,
        ema_fractions=(0.02, 0.05),
        mirror=True,
    ),
    "lite32": _LITE,
    "lite64": replace(_LITE, widths=(512, 512, 256, 128, 64), gamma=1.0, gamma_final=0.1),
    "r3gan-stacked-mnist": replace(
        _R3GAN,
        batch_size=512,
        gamma=1.0,
        gamma_final=0.1,
        burn_in_fraction=0.2,
        ema_fractions=(0.05,),
    ),
    "r3gan-cifar10": replace(
        _R3GAN,
        batch_size=512,
        gamma=0.05,
        gamma_final=0.005,
        burn_in_fraction=0.08,
        ema_fractions=(0.02,),
        augment="ada",
        augment_p=0.55,
        mirror=True,
    ),
    "r3gan-ffhq64": replace(
        _R3GAN_FFHQ,
        widths=(768, 768, 768, 768, 384),
        gamma=2.0,
        gamma_final=0.2,
        burn_in_fraction=0.2,
        ema_fractions=(0.005,),
    ),
    "r3gan-ffhq256": replace(
        _R3GAN_FFHQ,
        widths=(768, 768, 768, 768, 384, 192, 96),
        gamma=150.0,
        gamma_final=15.0,
        burn_in_fraction=0.1,
        ema_fractions=(0.0025,),
    ),
    # Radford et al. 2015, arXiv 1511.06434, with spectral normalisation (Miyato et al. 2018,
    # arXiv 1802.05957) where its D had batch normalisation.
    "dcgan": TrainConfig(
        architecture="dcgan",
        widths=(128, 64),
        z_dim=100,
        loss="non_saturating",
        spectral_norm=True,
        gamma=0.0,
        gamma_final=0.0,
        lr_g=2e-4,
        lr_d=2e-4,
        lr_final_ratio=1.0,
        beta1_g=0.5,
        beta1_d=0.5,
        beta2_g=0.999,
        beta2_d=0.999,
        beta2_final_g=0.999,
        beta2_final_d=0.999,
        batch_size=128,
    ),
    # The article's sizes (z of 100 numbers, dense nets, batch 128) with an objective that works.
    "article": TrainConfig(
        architecture="dense",
        widths=(256, 512, 1024),
        z_dim=100,
        loss="non_saturating",
        penalty="exact",
        gamma=1.0,
        gamma_final=0.1,
        lr_g=2e-4,
        lr_d=2e-4,
        lr_final_ratio=1.0,
        beta1_g=0.5,
        beta1_d=0.5,
        beta2_g=0.99,
        beta2_d=0.99,
        batch_size=128,
    ),
    # Kingma & Welling 2013, arXiv 1312.6114, with cpu28's G as decoder: a GAN's measuring stick.
    "vae": replace(
        _STRIDED,
        objective="vae",
        beta1_g=0.9,
        beta1_d=0.9,
        beta2_g=0.99,
        beta2_d=0.99,
        lr_final_ratio=0.05,
        batch_size=128,
    ),
}


def preset_for(name: str | None, resolution: int, channels: int, device: str = "cpu") -> str:
    """`name` if it can make such images; if None, the best that can on that kind of device.

    Raises ConfigError if it cannot, or none can.
    """
    able = fitting(resolution, channels, device)
    if name is None and able:
        return able[0]
    if name is not None and name not in PRESETS:
        raise ConfigError(f"preset {name!r} does not exist; presets: {', '.join(PRESETS)}")
    if name in able:
        return name
    instead = f"use {able[0]!r}" if able else "import the images at 28, 32, 64, 128 or 256 pixels"
    why = PRESET_INFO[name].misfit(resolution, channels) if name else "no preset makes such images"
    raise ConfigError(f"preset {name!r} {why}; {instead}")
