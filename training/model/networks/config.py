"""Owns the description of a pair of networks that is stored beside their weights."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

Architecture = Literal["dense", "dcgan", "strided", "r3gan"]
PixelOutput = Literal["clamp", "tanh", "linear"]
Output = Literal["native", PixelOutput]

_NATIVE_OUTPUT: dict[Architecture, PixelOutput] = {
    "dense": "tanh",
    "dcgan": "tanh",
    "strided": "clamp",
    "r3gan": "linear",
}


@dataclass(frozen=True)
class NetworkConfig:
    """Everything needed to build G and D.

    widths: channels of each resolution, low → high, or units of each hidden layer of G (dense; D
    has them in reverse). num_classes: 0 means unconditional. blocks, group_size: residual blocks a
    resolution, and channels a group of their 3×3, 0 for dense (r3gan). output: how G's last layer
    becomes pixels; native is clamp for strided, tanh for dense and dcgan, linear for r3gan.
    spectral_norm: of D's weights. modulation: whether G's latent and class scale the channels of
    every resolution (strided).
    """

    architecture: Architecture
    img_resolution: int
    img_channels: int
    num_classes: int
    z_dim: int
    widths: tuple[int, ...]
    embed_dim: int = 32
    feature_dim: int = 128
    blocks: int = 2
    group_size: int = 16
    output: Output = "native"
    spectral_norm: bool = False
    modulation: bool = False

    def __post_init__(self) -> None:
        _check_choice("architecture", self.architecture, get_args(Architecture))
        _check_choice("output", self.output, ("native", *get_args(PixelOutput)))
        if not self.widths:
            raise ValueError("widths is empty; expected one width or more, such as [64, 32, 16]")
        sizes = (self.img_resolution, self.img_channels, self.z_dim, self.embed_dim, self.blocks)
        if min(*sizes, self.feature_dim, *self.widths) < 1 or self.num_classes < 0:
            raise ValueError(f"a size in {self} is below 1; every size counts something")
        if self.img_resolution % 2**self.halvings:
            raise ValueError(
                f"img_resolution {self.img_resolution} cannot be halved {self.halvings} "
                f"times; give fewer widths than {list(self.widths)}"
            )
        if self.architecture == "r3gan":
            self._check_r3gan()

    def _check_r3gan(self) -> None:
        if self.spectral_norm:
            raise ValueError(
                "spectral_norm is True, but architecture 'r3gan' is built to train without "
                "normalisation; set spectral_norm to false, or take dense, dcgan or strided"
            )
        if self.group_size < 0:
            raise ValueError(f"group_size is {self.group_size}; expected 0 (dense) or more")
        for width in self.widths:
            if self.group_size and 2 * width % self.group_size:
                raise ValueError(
                    f"group_size {self.group_size} does not divide the {2 * width} channels that "
                    f"width {width} expands to; use group_size 0 or widths that it divides"
                )

    @property
    def halvings(self) -> int:
        """How often the resolution halves between the pixels and the lowest feature map."""
        if self.architecture == "dense":
            return 0
        # A dcgan has no layer at full resolution: its last step up gives the pixels.
        return len(self.widths) - (self.architecture != "dcgan")

    @property
    def start_resolution(self) -> int:
        """Side of the lowest feature map of a convolutional network."""
        return self.img_resolution >> self.halvings

    @property
    def pixel_output(self) -> PixelOutput:
        """`output`, with native resolved."""
        return _NATIVE_OUTPUT[self.architecture] if self.output == "native" else self.output

    def to_json(self) -> dict[str, Any]:
        """A dict that `from_json` turns back into an equal config."""
        return {**asdict(self), "widths": list(self.widths)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "NetworkConfig":
        """Raises ValueError naming any field that is missing, unknown or of another type.

        Fields with a default may be missing: manifests are older than some of them.
        """
        known = {f.name for f in fields(NetworkConfig)}
        required = {f.name for f in fields(NetworkConfig) if f.default is MISSING}
        if not required <= set(value) <= known:
            raise ValueError(f"network config has fields {sorted(value)}; expected {sorted(known)}")
        for name in value.keys() - {"architecture", "output", "widths"}:
            expected = bool if name in ("spectral_norm", "modulation") else int
            if type(value[name]) is not expected:
                a_kind = "true or false" if expected is bool else "an integer"
                raise ValueError(f"network config {name} is {value[name]!r}; expected {a_kind}")
        widths = value["widths"]
        if not isinstance(widths, list) or not all(type(w) is int for w in widths):
            raise ValueError(f"network config widths is {widths!r}; expected a list of integers")
        given: dict[str, Any] = {**value, "widths": tuple(cast(list[int], widths))}
        return NetworkConfig(**given)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
