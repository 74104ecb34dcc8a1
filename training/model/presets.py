"""Owns what each training preset can make, so that a service can refuse a misfit without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PresetInfo:
    """`resolutions` and `channels` the preset can make; None means any.

    made_for: the kind of device on which it comes before others.
    """

    help: str
    resolutions: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    made_for: str | None = None

    def misfit(self, resolution: int, channels: int) -> str | None:
        """Why images of (channels, resolution, resolution) cannot be made, or None if they can."""
        if self.resolutions is not None and resolution not in self.resolutions:
            return f"makes {_one_of(self.resolutions)} pixels a side, not {resolution}"
        if self.channels is not None and channels not in self.channels:
            return f"makes {_one_of(self.channels)} channels, not {channels}"
        return None


def _one_of(values: tuple[int, ...]) -> str:
    return " or ".join(str(v) for v in values)


# The longest side that minutes of training can do: what a preset is made for on either device.
MOST_SIDE = 32

# In order of preference: the first that fits a dataset is used where none is asked for.
PRESETS: dict[str, PresetInfo] = {
    "cpu28": PresetInfo("strided convolutions for 28×28 on a CPU", (28,), made_for="cpu"),
    "cpu32": PresetInfo("strided convolutions for 32×32 on a CPU", (32,), made_for="cpu"),
    "gpu32": PresetInfo(
        "wide strided convolutions for 32×32, for minutes of a GPU", (32,), made_for="cuda"
    ),
    "tiny": PresetInfo(
        "a very small strided network: tests, and a first try at 64 to 256 pixels",
        resolutions=(28, 32, 64, 128, 256),
    ),
    "lite32": PresetInfo("R3GAN blocks for 32×32, for minutes of a GPU", resolutions=(32,)),
    "lite64": PresetInfo("R3GAN blocks for 64×64, for hours of a GPU", resolutions=(64,)),
    "r3gan-stacked-mnist": PresetInfo(
        "R3GAN as published for Stacked-MNIST, 10,000 kimg", resolutions=(32,), channels=(3,)
    ),
    "r3gan-cifar10": PresetInfo(
        "R3GAN as published for CIFAR-10, 250,000 kimg", resolutions=(32,), channels=(3,)
    ),
    "r3gan-ffhq64": PresetInfo(
        "R3GAN as published for FFHQ at 64×64, 100,000 kimg", resolutions=(64,), channels=(3,)
    ),
    "r3gan-ffhq256": PresetInfo(
        "R3GAN as published for FFHQ at 256×256, 200,000 kimg", resolutions=(256,), channels=(3,)
    ),
    "dcgan": PresetInfo(
        "the classic: transposed convolutions with batch normalisation",
        resolutions=(28, 32, 64, 128),
    ),
    "article": PresetInfo("the dense example the project grew from", resolutions=(28,)),
    "vae": PresetInfo(
        "no GAN: a small variational autoencoder to compare with",
        resolutions=(28, 32, 64, 128, 256),
    ),
}


def fitting(resolution: int, channels: int, device: str = "cpu") -> list[str]:
    """Names of the presets that can make such images, best first on that kind of device."""
    able = [name for name, info in PRESETS.items() if info.misfit(resolution, channels) is None]
    return sorted(able, key=lambda name: PRESETS[name].made_for != device)
