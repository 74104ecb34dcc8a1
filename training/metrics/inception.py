"""Owns the network FID is defined on: the Inception-v3 of 2015-12-05, its input and its file.

The graph is TensorFlow's (Szegedy et al. 2016, arXiv 1512.00567; Heusel et al. 2017, arXiv
1706.08500): average pools leave the padding out of the mean, the last block pools by maximum, and
there are 1008 outputs. Any other Inception-v3 gives another number, so no other file is read.
"""

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, relu

from training.model.checkpoint import CheckpointError

# The PyTorch file of these weights, which `tools/inception.py` converts.
SOURCE_BYTES = 95_628_359
SOURCE_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

RESOLUTION = 299
FEATURE_DIM = 2048
_OUTPUTS = 1008
_BN_EPS = 0.001
_BATCH = 16  # bounds the memory of the first layers: 16 images take about 300 MB

Pool = Callable[[Tensor], Tensor]
AVERAGE: Pool = partial(avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
MAXIMUM: Pool = partial(max_pool2d, kernel_size=3, stride=1, padding=1)
HALVE: Pool = partial(max_pool2d, kernel_size=3, stride=2)


@dataclass(frozen=True)
class Conv:
    """Convolution without bias, batch norm with running statistics, ReLU."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True

    @property
    def padding(self) -> tuple[int, int]:
        return (self.kernel[0] // 2, self.kernel[1] // 2) if self.padded else (0, 0)


@dataclass(frozen=True)
class Branches:
    """Chains that read the same input; their channels are joined in this order."""

    chains: tuple["Chain", ...]


Chain = tuple[Conv | Branches | Pool, ...]


def _join(*chains: Chain) -> Branches:
    return Branches(chains)


def _halving(name: str, outputs: int) -> Conv:
    return Conv(name, outputs, (3, 3), stride=2, padded=False)


def _wide_35(name: str, pooled: int) -> Branches:
    def conv(branch: str, outputs: int, size: int = 1) -> Conv:
        return Conv(f"{name}.{branch}", outputs, (size, size))

    return _join(
        (conv("branch1x1", 64),),
        (conv("branch5x5_1", 48), conv("branch5x5_2", 64, 5)),
        (conv("branch3x3dbl_1", 64), conv("branch3x3dbl_2", 96, 3), conv("branch3x3dbl_3", 96, 3)),
        (AVERAGE, conv("branch_pool", pooled)),
    )


def _to_17(name: str) -> Branches:
    return _join(
        (_halving(f"{name}.branch3x3", 384),),
        (
            Conv(f"{name}.branch3x3dbl_1", 64),
            Conv(f"{name}.branch3x3dbl_2", 96, (3, 3)),
            _halving(f"{name}.branch3x3dbl_3", 96),
        ),
        (HALVE,),
    )


def _wide_17(name: str, inner: int) -> Branches:
    def chain(branch: str, *kernels: tuple[int, int]) -> Chain:
        widths = [inner] * (len(kernels) - 1) + [192]
        numbered = enumerate(zip(widths, kernels, strict=True), start=1)
        return tuple(Conv(f"{name}.{branch}_{i}", width, k) for i, (width, k) in numbered)

    return _join(
        (Conv(f"{name}.branch1x1", 192),),
        chain("branch7x7", (1, 1), (1, 7), (7, 1)),
        chain("branch7x7dbl", (1, 1), (7, 1), (1, 7), (7, 1), (1, 7)),
        (AVERAGE, Conv(f"{name}.branch_pool", 192)),
    )


def _to_8(name: str) -> Branches:
    return _join(
        (Conv(f"{name}.branch3x3_1", 192), _halving(f"{name}.branch3x3_2", 320)),
        (
            Conv(f"{name}.branch7x7x3_1", 192),
            Conv(f"{name}.branch7x7x3_2", 192, (1, 7)),
            Conv(f"{name}.branch7x7x3_3", 192, (7, 1)),
            _halving(f"{name}.branch7x7x3_4", 192),
        ),
        (HALVE,),
    )


def _wide_8(name: str, pool: Pool) -> Branches:
    def fork(branch: str) -> Branches:
        a, b = f"{name}.{branch}a", f"{name}.{branch}b"
        return _join((Conv(a, 384, (1, 3)),), (Conv(b, 384, (3, 1)),))

    return _join(
        (Conv(f"{name}.branch1x1", 320),),
        (Conv(f"{name}.branch3x3_1", 384), fork("branch3x3_2")),
        (
            Conv(f"{name}.branch3x3dbl_1", 448),
            Conv(f"{name}.branch3x3dbl_2", 384, (3, 3)),
            fork("branch3x3dbl_3"),
        ),
        (pool, Conv(f"{name}.branch_pool", 192)),
    )


NETWORK: Chain = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2, padded=False),  # (B, 32, 149, 149)
    Conv("Conv2d_2a_3x3", 32, (3, 3), padded=False),  # (B, 32, 147, 147)
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    HALVE,  # (B, 64, 73, 73)
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padded=False),  # (B, 192, 71, 71)
    HALVE,  # (B, 192, 35, 35)
    _wide_35("Mixed_5b", 32),  # (B, 256, 35, 35)
    _wide_35("Mixed_5c", 64),  # (B, 288, 35, 35)
    _wide_35("Mixed_5d", 64),
    _to_17("Mixed_6a"),  # (B, 768, 17, 17)
    _wide_17("Mixed_6b", 128),
    _wide_17("Mixed_6c", 160),
    _wide_17("Mixed_6d", 160),
    _wide_17("Mixed_6e", 192),
    _to_8("Mixed_7a"),  # (B, 1280, 8, 8)
    _wide_8("Mixed_7b", AVERAGE),  # (B, 2048, 8, 8)
    _wide_8("Mixed_7c", MAXIMUM),
)


def _convs(chain: Chain, inputs: int) -> Generator[tuple[Conv, int], None, int]:
    """Every convolution with its number of input channels; returns the chain's outputs."""
    for step in chain:
        if isinstance(step, Conv):
            yield step, inputs
            inputs = step.outputs
        elif isinstance(step, Branches):
            widths: list[int] = []
            for branch in step.chains:
                widths.append((yield from _convs(branch, inputs)))
            inputs = sum(widths)
    return inputs


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Name → shape of everything the file holds, as PyTorch ports of the graph name it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, inputs in _convs(NETWORK, 3):
        shapes[f"{conv.name}.conv.weight"] = (conv.outputs, inputs, *conv.kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{conv.name}.bn.{part}"] = (conv.outputs,)
    # No score here reads the class outputs, but their number tells this network from others.
    shapes["fc.weight"], shapes["fc.bias"] = (_OUTPUTS, FEATURE_DIM), (_OUTPUTS,)
    return shapes


def content_digest(tensors: dict[str, Tensor]) -> str:
    """Hex SHA-256 over names, shapes and values: the same however the file was written."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def pack(tensors: dict[str, Tensor], source_sha256: str) -> bytes:
    """The file `load_inception` reads. Raises CheckpointError if a tensor is not the network's."""
    _check_tensors(tensors, "the network given")
    about = {"source_sha256": source_sha256, "content_sha256": content_digest(tensors)}
    return save(tensors, metadata=about)


def load_inception(path: Path, device: torch.device | None = None) -> "Inception":
    """The network in `path`, a file that `tools/inception.py convert` wrote.

    Raises CheckpointError if there is none, if it was made from another source than the pinned
    one, or if a name, shape, type or value is not what was converted.
    """
    tensors, about = _read(path)
    if (source := about.get("source_sha256")) != SOURCE_SHA256:
        raise CheckpointError(
            f"{path} was made from source {str(source)[:12]!r}, FID is defined on "
            f"{SOURCE_SHA256[:12]!r}; {_MAKE}"
        )
    _check_tensors(tensors, str(path))
    if (digest := content_digest(tensors)) != about.get("content_sha256"):
        raise CheckpointError(f"{path} was altered: its tensors are not those converted; {_MAKE}")
    return Inception(tensors, digest, device or torch.device("cpu"))


_MAKE = "make it with: python tools/inception.py convert FILE.pth --out inception.safetensors"


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"There is no Inception file at {path}; {_MAKE}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error}); {_MAKE}") from error


def _check_tensors(tensors: dict[str, Tensor], what: str) -> None:
    expected = {name: (shape, torch.float32) for name, shape in tensor_shapes().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    if expected != found:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{what} is not the Inception-v3 of 2015-12-05: {wrong[:3]} and {len(wrong[3:])} more "
            f"differ in name, shape or type; start from the published file"
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{what} holds NaN or infinity in {name!r}; start from the published file"
            )


class Inception:
    """uint8 images → pool3 features, in fp32. `digest` names the weights."""

    width = FEATURE_DIM

    def __init__(self, tensors: dict[str, Tensor], digest: str, device: torch.device) -> None:
        self.digest = digest
        self._device = device
        self._weights = {
            conv.name: tuple(part.to(device) for part in _folded(tensors, conv.name))
            for conv, _ in _convs(NETWORK, 3)
        }

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Grey or RGB images uint8 (n, H, W, C) of any size → features (n, 2048)."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(
                f"Inception got {images.dtype} images of shape {images.shape}; expected uint8 "
                "(n, H, W, 1) or (n, H, W, 3)"
            )
        # TF32 would round the products to 10 bits of mantissa: not the published numbers.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [self._features(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, FEATURE_DIM), np.float32)

    def _features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        x = to_input(pixels.permute(0, 3, 1, 2))  # (B, 3, 299, 299)
        x = self._run(NETWORK, x.contiguous(memory_format=torch.channels_last))
        return x.mean(dim=(2, 3)).cpu().numpy()

    def _run(self, chain: Chain, x: Tensor) -> Tensor:
        for step in chain:
            if isinstance(step, Conv):
                weight, bias = self._weights[step.name]
                x = relu(conv2d(x, weight, bias, step.stride, step.padding))
            elif isinstance(step, Branches):
                x = torch.cat([self._run(branch, x) for branch in step.chains], dim=1)
            else:
                x = step(x)
        return x


def _folded(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does its batch norm as well; folded in float64."""
    scale, shift, mean, variance = (
        tensors[f"{name}.bn.{part}"].double()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / torch.sqrt(variance + _BN_EPS)
    weight = tensors[f"{name}.conv.weight"].double() * scale[:, None, None, None]
    bias = shift - mean * scale
    return weight.float().contiguous(memory_format=torch.channels_last), bias.float()


def to_input(pixels: Tensor) -> Tensor:
    """uint8 (B, 1 or 3, H, W) → what the graph feeds its first layer, (B, 3, 299, 299)."""
    x = _resize(_resize(pixels.float()).mT).mT
    return ((x - 128) / 128).expand(-1, 3, -1, -1)


def _resize(x: Tensor) -> Tensor:
    """Widths → 299 as TensorFlow 1's ResizeBilinear does it, with neither corners nor pixel
    centres aligned and no antialiasing: output i is read at i · width / 299."""
    width = x.shape[-1]
    place = torch.arange(RESOLUTION, device=x.device) * torch.tensor(width / RESOLUTION)
    left = place.long()
    right = (left + 1).clamp(max=width - 1)
    a, b = x[..., left], x[..., right]
    return a + (b - a) * (place - left)
