"""Owns the pair of DCGAN: strided 4×4 convolutions, with batch normalisation in G.

Radford et al. 2015 (arXiv 1511.06434), section 3; weights start as N(0, .02²) (section 4).
"""

from itertools import pairwise

from torch import Tensor, nn

from training.model.networks.config import NetworkConfig, PixelOutput
from training.model.networks.layers import LatentInput, LogitHead, as_pixels, lrelu


def _published(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    nn.init.normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _up(channels_in: int, channels_out: int, bias: bool = False) -> nn.Module:
    return _published(nn.ConvTranspose2d(channels_in, channels_out, 4, 2, padding=1, bias=bias))


class DCGANGenerator(nn.Module):
    """z (B, z_dim), c (B,) int64 → images (B, img_channels, R, R), fp32.

    In training mode an image depends on its batch; in eval mode the running statistics stand in,
    and it does not.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths, side = config.widths, config.start_resolution
        self.output: PixelOutput = config.pixel_output
        self.start_shape = (widths[0], side, side)
        self.input = LatentInput(config.z_dim, config.num_classes, config.embed_dim)
        self.start = _published(nn.Linear(self.input.out_dim, widths[0] * side**2, bias=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.ups = nn.ModuleList(_up(low, high) for low, high in pairwise(widths))
        self.to_pixels = _up(widths[-1], config.img_channels, bias=True)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x = self.start(self.input(z, c)).unflatten(1, self.start_shape)  # (B, C, 4, 4)
        x = self.norms[0](x).relu()
        for up, norm in zip(self.ups, self.norms[1:], strict=True):
            x = norm(up(x)).relu()  # (B, C/2, 2R, 2R)
        return as_pixels(self.to_pixels(x), self.output)


class DCGANDiscriminator(nn.Module):
    """images (B, img_channels, R, R), c (B,) int64 → logits (B,) in fp32.

    Without the published batch normalisation: gradient penalties and relativistic pairs need each
    logit to depend on its own image alone. `spectral_norm` takes its place (Miyato et al. 2018,
    arXiv 1802.05957, section 3).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = (config.img_channels, *config.widths[::-1])  # high → low resolution
        self.downs = nn.ModuleList(
            _published(nn.Conv2d(high, low, 4, stride=2, padding=1))
            for high, low in pairwise(widths)
        )
        self.head = LogitHead(config.widths[0] * config.start_resolution**2, config.num_classes)

    def forward(self, images: Tensor, c: Tensor) -> Tensor:
        x = images
        for down in self.downs:
            x = lrelu(down(x))
        return self.head(x.flatten(1), c)
