"""Owns the light convolutional pair: strided 4×4 convolutions, one dense 3×3 per resolution."""

from itertools import pairwise

from torch import Tensor, nn

from training.model.networks.config import NetworkConfig, PixelOutput
from training.model.networks.layers import (
    LatentInput,
    LogitHead,
    as_pixels,
    init_he,
    linear,
    lrelu,
)


def _conv3(channels_in: int, channels_out: int, gain: float | None = None) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    init_he(layer, channels_in * 9, *([] if gain is None else [gain]))
    return layer


def _up(channels_in: int, channels_out: int) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
    init_he(layer, channels_in * 4)  # a stride of 2 leaves each output pixel 2×2 of the 4×4 taps
    return layer


def _down(channels_in: int, channels_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1)
    init_he(layer, channels_in * 16)
    return layer


class StridedGenerator(nn.Module):
    """z (B, z_dim), c (B,) int64 → images (B, img_channels, R, R), fp32.

    Modulated, latent and class also scale every channel at every resolution (self-modulation: Chen
    et al. 2019, arXiv 1810.01365, without its normalisation), not the lowest alone.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.output: PixelOutput = config.pixel_output
        self.start_shape = (config.widths[0], config.start_resolution, config.start_resolution)
        self.input = LatentInput(config.z_dim, config.num_classes, config.embed_dim)
        self.start = linear(self.input.out_dim, config.widths[0] * config.start_resolution**2)
        self.convs = nn.ModuleList(_conv3(w, w) for w in config.widths)
        self.ups = nn.ModuleList(_up(low, high) for low, high in pairwise(config.widths))
        self.scales = nn.ModuleList(
            linear(self.input.out_dim, width, gain=0.3)
            for width in config.widths
            if config.modulation
        )
        self.to_pixels = _conv3(config.widths[-1], config.img_channels, gain=1.0)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        latent = self.input(z, c)
        x = lrelu(self.start(latent)).unflatten(1, self.start_shape)  # (B, C, 7, 7)
        x = self._scaled(lrelu(self.convs[0](x)), latent, 0)
        for i, (up, conv) in enumerate(zip(self.ups, self.convs[1:], strict=True), start=1):
            x = self._scaled(lrelu(conv(lrelu(up(x)))), latent, i)  # (B, C/2, 2R, 2R)
        return as_pixels(self.to_pixels(x), self.output)

    def _scaled(self, x: Tensor, latent: Tensor, level: int) -> Tensor:
        if not self.scales:
            return x
        return x * (1 + self.scales[level](latent))[:, :, None, None]


class _StridedFeatures(nn.Module):
    """images (B, img_channels, R, R) → features (B, feature_dim)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]  # high → low resolution
        self.from_pixels = _conv3(config.img_channels, widths[0])
        self.convs = nn.ModuleList(_conv3(w, w) for w in widths)
        self.downs = nn.ModuleList(_down(high, low) for high, low in pairwise(widths))
        self.features = linear(widths[-1] * config.start_resolution**2, config.feature_dim)

    def describe(self, images: Tensor) -> Tensor:
        x = lrelu(self.convs[0](lrelu(self.from_pixels(images))))
        for down, conv in zip(self.downs, self.convs[1:], strict=True):
            x = lrelu(conv(lrelu(down(x))))
        return lrelu(self.features(x.flatten(1)))


class StridedDiscriminator(_StridedFeatures):
    """images (B, img_channels, R, R), c (B,) int64 → logits (B,) in fp32."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.head = LogitHead(config.feature_dim, config.num_classes)

    def forward(self, images: Tensor, c: Tensor) -> Tensor:
        return self.head(self.describe(images), c)


class StridedEncoder(_StridedFeatures):
    """images (B, img_channels, R, R), c (B,) int64 → (mean, log_variance), each (B, z_dim), fp32.

    The normal distribution q(z | image, c) of a VAE (Kingma & Welling 2014, arXiv 1312.6114,
    eq. 9), made of D's body.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.join = LatentInput(config.feature_dim, config.num_classes, config.embed_dim)
        self.moments = linear(self.join.out_dim, 2 * config.z_dim, gain=1.0)

    def forward(self, images: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.moments(self.join(self.describe(images), c)).float()
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance
