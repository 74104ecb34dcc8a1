"""Owns the promise that an image is a function of (weights, seed, class, truncation), to the byte.

Convolution kernels are picked by shape, so the same latent can come out differently in a batch of
1 and of 64. The remedy: run only a few fixed batch sizes (buckets), pad to them, and at load keep
only those whose output equals the reference bucket's bit for bit.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.model.networks.build import place
from training.model.networks.config import NetworkConfig
from training.model.pixels import to_uint8

_PROBES = 64
_Z_STREAM, _CLASS_STREAM = 0, 1


def _stream(seed: int, stream: int) -> np.random.Generator:
    # Philox with an explicit key: all 2^53 seeds differ (torch's CPU generator keeps 32 bits),
    # and neither batch nor device plays a part.
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))


def latents_of(seeds: Sequence[int], z_dim: int) -> NDArray[np.float32]:
    """Latents z ~ N(0, I), shape (n, z_dim); row i depends on seeds[i] alone (0 ≤ seed < 2^53)."""
    z = np.empty((len(seeds), z_dim), np.float32)
    for row, seed in zip(z, seeds, strict=True):
        row[:] = _stream(seed, _Z_STREAM).standard_normal(z_dim)
    return z


def classes_of(seeds: Sequence[int], num_classes: int) -> NDArray[np.int64]:
    """The class each seed stands for where none is asked for, shape (n,); zeros if unlabelled."""
    if not num_classes:
        return np.zeros(len(seeds), np.int64)
    return np.array([_stream(s, _CLASS_STREAM).integers(num_classes) for s in seeds], np.int64)


@dataclass(frozen=True)
class Certificate:
    """Where byte-for-byte equality holds: the same device kind, build and buckets."""

    device: str
    capability: str
    torch: str
    buckets: tuple[int, ...]

    def id(self, encoder: str = "") -> str:
        """A short name that differs whenever the bytes might; `encoder` names the image writer."""
        text = json.dumps([asdict(self), encoder], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def pick_device(name: str) -> torch.device:
    """`auto` → cuda, mps or cpu, the first there is. Raises ValueError if a named one is not."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in available.items() if there), "cpu")
    if not available.get(name, name == "cpu"):
        raise ValueError(f"device {name!r} is not available on this machine; use 'auto' or 'cpu'")
    return torch.device(name)


class Sampler:
    """Generates images from a generator on one device. Not thread-safe: one thread calls it.

    Raises ValueError for a generator that gives NaN.
    """

    def __init__(
        self,
        generator: nn.Module,
        config: NetworkConfig,
        device: torch.device,
        max_batch_size: int = 64,
    ) -> None:
        self.config = config
        self._device = device
        self._generator = place(generator, device).eval()
        candidates = [2**i for i in range(max_batch_size.bit_length()) if 2**i <= max_batch_size]
        self.certificate = Certificate(
            device=device.type,
            capability=_capability(device),
            torch=torch.__version__,
            buckets=self._agreeing(candidates),
        )

    def __call__(self, z: NDArray[np.float32], c: NDArray[np.int64]) -> NDArray[np.uint8]:
        """z (n, z_dim) and classes c (n,) → images uint8 (n, H, W, C), for any n ≥ 1."""
        largest = self.certificate.buckets[-1]
        chunks = [slice(i, i + largest) for i in range(0, len(z), largest)]
        return np.concatenate([self._padded(z[chunk], c[chunk]) for chunk in chunks])

    def from_seeds(
        self, seeds: Sequence[int], classes: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """Images (n, H, W, C) of `seeds`; classes default to those drawn from the seeds."""
        c = classes_of(seeds, self.config.num_classes) if classes is None else classes
        return self(latents_of(seeds, self.config.z_dim), c)

    def _padded(self, z: NDArray[np.float32], c: NDArray[np.int64]) -> NDArray[np.uint8]:
        bucket = next(b for b in self.certificate.buckets if b >= len(z))
        images = to_uint8(self._forward(z, c, bucket)[: len(z)])
        return images.permute(0, 2, 3, 1).cpu().contiguous().numpy()  # (n, H, W, C)

    @torch.inference_mode()
    def _forward(self, z: NDArray[np.float32], c: NDArray[np.int64], bucket: int) -> Tensor:
        z_in = torch.zeros(bucket, self.config.z_dim)
        c_in = torch.zeros(bucket, dtype=torch.int64)
        z_in[: len(z)] = torch.from_numpy(z)
        c_in[: len(c)] = torch.from_numpy(c)
        return self._generator(z_in.to(self._device), c_in.to(self._device))

    def _agreeing(self, buckets: list[int]) -> tuple[int, ...]:
        """Buckets that give each probe the reference's exact floats (stricter than its pixels, so
        that few probes tell two kernels apart)."""
        z = latents_of(range(_PROBES), self.config.z_dim)
        c = classes_of(range(_PROBES), self.config.num_classes)

        def outputs(bucket: int) -> Tensor:
            starts = range(0, _PROBES, bucket)
            parts = [self._forward(z[i : i + bucket], c[i : i + bucket], bucket) for i in starts]
            return torch.cat(parts)[:_PROBES].cpu()

        reference = outputs(buckets[-1])
        if not torch.isfinite(reference).all():
            raise ValueError("the generator gives NaN or infinity; train it again")
        return tuple(b for b in buckets if torch.equal(outputs(b), reference))


def _capability(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
