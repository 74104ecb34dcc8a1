"""Owns the dense pair of the article: fully connected layers from latent to pixels and back."""

from itertools import pairwise

from torch import Tensor, nn

from training.model.networks.config import NetworkConfig, PixelOutput
from training.model.networks.layers import LatentInput, LogitHead, as_pixels, linear, lrelu


class DenseGenerator(nn.Module):
    """z (B, z_dim), c (B,) int64 → images (B, img_channels, R, R), fp32."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.output: PixelOutput = config.pixel_output
        self.shape = (config.img_channels, config.img_resolution, config.img_resolution)
        self.input = LatentInput(config.z_dim, config.num_classes, config.embed_dim)
        sizes = (self.input.out_dim, *config.widths)
        self.hidden = nn.ModuleList(linear(a, b) for a, b in pairwise(sizes))
        self.to_pixels = linear(sizes[-1], config.img_channels * config.img_resolution**2, gain=1.0)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        x = self.input(z, c)
        for layer in self.hidden:
            x = lrelu(layer(x))
        return as_pixels(self.to_pixels(x), self.output).unflatten(1, self.shape)


class DenseDiscriminator(nn.Module):
    """images (B, img_channels, R, R), c (B,) int64 → logits (B,) in fp32.

    The article's D ends in a sigmoid; here the losses take the logit, which is the same
    probability without its overflow.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        pixels = config.img_channels * config.img_resolution**2
        sizes = (pixels, *config.widths[::-1], config.feature_dim)
        self.hidden = nn.ModuleList(linear(a, b) for a, b in pairwise(sizes))
        self.head = LogitHead(config.feature_dim, config.num_classes)

    def forward(self, images: Tensor, c: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in self.hidden:
            x = lrelu(layer(x))
        return self.head(x, c)
