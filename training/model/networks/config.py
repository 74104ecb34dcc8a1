"""Owns the description of a pair of networks that is stored beside their weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast

Architecture = Literal["dense", "strided"]


@dataclass(frozen=True)
class NetworkConfig:
    """Everything needed to build G and D.

    widths: channels of each resolution, low → high (strided), or units of each hidden layer of G
    (dense; D has them in reverse). num_classes: 0 means unconditional.
    """

    architecture: Architecture
    img_resolution: int
    img_channels: int
    num_classes: int
    z_dim: int
    widths: tuple[int, ...]
    embed_dim: int = 32
    feature_dim: int = 128

    def __post_init__(self) -> None:
        if self.architecture not in ("dense", "strided"):
            raise ValueError(
                f"architecture is {self.architecture!r}; expected 'dense' or 'strided'"
            )
        if not self.widths:
            raise ValueError("widths is empty; expected one width or more, such as [64, 32, 16]")
        sizes = (self.img_resolution, self.img_channels, self.z_dim, self.embed_dim)
        if min(*sizes, self.feature_dim, *self.widths) < 1 or self.num_classes < 0:
            raise ValueError(f"a size in {self} is below 1; every size counts something")
        if self.architecture == "strided" and self.img_resolution % 2 ** (len(self.widths) - 1):
            raise ValueError(
                f"img_resolution {self.img_resolution} cannot be halved {len(self.widths) - 1} "
                f"times; give fewer widths than {list(self.widths)}"
            )

    @property
    def start_resolution(self) -> int:
        """Side of the lowest feature map of a strided network."""
        return self.img_resolution >> (len(self.widths) - 1)

    def to_json(self) -> dict[str, Any]:
        """A dict that `from_json` turns back into an equal config."""
        return {**asdict(self), "widths": list(self.widths)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "NetworkConfig":
        """Raises ValueError naming any field that is missing, unknown or of another type."""
        known = {f.name for f in fields(NetworkConfig)}
        if set(value) != known:
            raise ValueError(f"network config has fields {sorted(value)}; expected {sorted(known)}")
        for name in known - {"architecture", "widths"}:
            if type(value[name]) is not int:
                raise ValueError(f"network config {name} is {value[name]!r}; expected an integer")
        widths = value["widths"]
        if not isinstance(widths, list) or not all(type(w) is int for w in widths):
            raise ValueError(f"network config widths is {widths!r}; expected a list of integers")
        given: dict[str, Any] = {**value, "widths": tuple(cast(list[int], widths))}
        return NetworkConfig(**given)
