"""Owns every choice of a training run: the frozen TrainConfig, what contradicts what, overrides."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from training.augment.augmentation import AugmentationName
from training.model.networks.config import Architecture, NetworkConfig, Output
from training.model.settings import SETTINGS, ConfigError, check_setting, parse_settings

LossName = Literal[
    "relativistic", "non_saturating", "minimax", "hinge", "least_squares", "wasserstein"
]
OptimizerName = Literal["adam", "adamw", "rmsprop", "sgd"]
Scheme = Literal["native", "he", "xavier", "orthogonal", "normal"]

SMOOTHED: tuple[LossName, ...] = ("non_saturating", "minimax", "least_squares")


@dataclass(frozen=True)
class PlayerConfig:
    """How one player's weights move; beta1 is SGD's and RMSprop's momentum, beta2 RMSprop's α."""

    optimizer: OptimizerName
    lr: float
    beta1: float
    beta2: float
    beta2_final: float
    weight_decay: float
    eps: float


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run but its data and its length. Fractions are of the run's images."""

    # networks
    architecture: Architecture
    widths: tuple[int, ...]
    z_dim: int = 64
    embed_dim: int = 32
    feature_dim: int = 128
    blocks: int = 2
    group_size: int = 16
    output: Output = "native"
    spectral_norm: bool = False
    modulation: bool = False
    init: Scheme = "native"

    # objective: adversarial_weight·loss + (γ/2)·(r1_weight·R1 + r2_weight·R2) + gp_weight·GP
    # + class_weight·cross-entropy of D's naming of classes
    objective: Literal["gan", "vae"] = "gan"
    loss: LossName = "relativistic"
    adversarial_weight: float = 1.0
    label_smoothing: float = 0.0
    penalty: Literal["finite_difference", "exact"] = "finite_difference"
    penalty_epsilon: float = 0.05
    r1_weight: float = 1.0
    r2_weight: float = 1.0
    gamma: float = 0.05
    gamma_final: float = 0.005
    gp_weight: float = 0.0
    kl_weight: float = 1.0
    class_weight_d: float = 0.0
    class_weight_g: float = 0.0

    # optimizers
    optimizer_g: OptimizerName = "adam"
    optimizer_d: OptimizerName = "adam"
    lr_g: float = 1e-3
    lr_d: float = 1e-3
    lr_final_ratio: float = 0.3
    beta1_g: float = 0.0
    beta1_d: float = 0.0
    beta2_g: float = 0.9
    beta2_d: float = 0.9
    beta2_final_g: float = 0.99
    beta2_final_d: float = 0.99
    weight_decay_g: float = 0.0
    weight_decay_d: float = 0.0
    eps: float = 1e-8

    # strategy
    batch_size: int = 64
    accumulation: int = 1
    d_steps: int = 1
    burn_in_fraction: float = 1.0
    ema_fractions: tuple[float, ...] = (0.03,)
    mirror: bool = False
    class_balance: bool = False
    instance_noise: float = 0.0
    augment: Literal["none", AugmentationName] = "none"
    augment_p: float = 0.0
    augment_schedule: Literal["constant", "burn_in", "adaptive"] = "burn_in"
    augment_target: float = 0.6
    augment_same_draw: bool = False
    collapse_watch: bool = True

    # machine
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["off", "default", "reduce-overhead"] = "off"

    def __post_init__(self) -> None:
        for name in SETTINGS:
            check_setting(name, getattr(self, name))
        if contradiction := next(_contradictions(self), None):
            raise ConfigError(contradiction)

    @property
    def classifies(self) -> bool:
        """Whether D also learns to name the class of an image, where the images have classes."""
        return self.class_weight_d > 0

    @property
    def g(self) -> PlayerConfig:
        """How G's weights move."""
        return self._player("g")

    @property
    def d(self) -> PlayerConfig:
        """How D's weights move (the encoder's, for a VAE)."""
        return self._player("d")

    def _player(self, suffix: str) -> PlayerConfig:
        own = [f.name for f in fields(PlayerConfig) if f.name != "eps"]
        return PlayerConfig(
            **{name: getattr(self, f"{name}_{suffix}") for name in own}, eps=self.eps
        )

    def network(self, img_resolution: int, img_channels: int, num_classes: int) -> NetworkConfig:
        """The networks for a dataset; raises ConfigError if its resolution cannot be made.

        Convolutional networks repeat their lowest width until they start from 8 pixels or fewer.
        """
        try:
            network = NetworkConfig(
                architecture=self.architecture,
                img_resolution=img_resolution,
                img_channels=img_channels,
                num_classes=num_classes,
                z_dim=self.z_dim,
                widths=self.widths,
                embed_dim=self.embed_dim,
                feature_dim=self.feature_dim,
                blocks=self.blocks,
                group_size=self.group_size,
                output=self.output,
                spectral_norm=self.spectral_norm,
                modulation=self.modulation,
            )
            while self.architecture != "dense" and network.start_resolution > 8:
                network = replace(network, widths=(network.widths[0], *network.widths))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return network

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values."""
        lists = {name: list(getattr(self, name)) for name, s in SETTINGS.items() if s.like}
        return {**asdict(self), **lists}


def _contradictions(c: TrainConfig) -> Iterator[str]:
    """A sentence for each pair of settings that cannot both be meant."""
    if c.label_smoothing and c.loss not in SMOOTHED:
        yield (
            f"label_smoothing is {c.label_smoothing:g}, but loss={c.loss} has no label to smooth; "
            f"use label_smoothing=0 or loss={', '.join(SMOOTHED)}"
        )
    held = c.gp_weight or c.spectral_norm or (c.gamma and (c.r1_weight or c.r2_weight))
    if c.loss == "wasserstein" and not held:
        yield (
            "loss=wasserstein needs a D whose slope is held: "
            "use gp_weight=10, spectral_norm=true or gamma above 0"
        )
    if c.compile != "off" and (c.penalty == "exact" or c.gp_weight):
        yield (
            f"compile={c.compile} cannot differentiate twice, which penalty=exact and gp_weight "
            "need; use compile=off, or penalty=finite_difference with gp_weight=0"
        )
    adaptive = c.augment_schedule == "adaptive"
    if c.augment == "none" and (c.augment_p or c.augment_same_draw or adaptive):
        yield (
            "augment is none, but augment_p, augment_same_draw or an adaptive schedule is set; "
            "use augment=ada"
        )
    if c.augment != "none" and not c.augment_p and not adaptive:
        yield (
            f"augment={c.augment} with augment_p=0 changes no image; "
            "use augment_p=0.3 or augment_schedule=adaptive"
        )
    if c.batch_size % c.accumulation:
        yield (
            f"accumulation is {c.accumulation}, which does not divide batch_size {c.batch_size}; "
            "use a divisor of it"
        )
    if c.objective == "vae" and c.architecture != "strided":
        yield f"objective=vae needs architecture=strided, not {c.architecture}"
    if c.objective == "vae" and c.augment != "none":
        yield f"objective=vae learns to copy images as they are; use augment=none, not {c.augment}"
    if c.objective == "vae" and c.class_weight_d:
        yield "objective=vae has no D to name classes; use class_weight_d=0 and class_weight_g=0"
    if c.class_weight_g and not c.class_weight_d:
        yield (
            f"class_weight_g is {c.class_weight_g:g}, but with class_weight_d=0 D never learns to "
            "name classes; use class_weight_d=1 or class_weight_g=0"
        )


def override(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """`config` with some fields replaced; raises ConfigError naming the field and what it takes."""
    return replace(config, **parse_settings(overrides))
