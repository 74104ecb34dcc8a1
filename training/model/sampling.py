"""Owns the promise that an image is a function of (weights, seed, class, truncation), to the byte.

Convolution kernels are picked by shape, so the same latent can come out differently in a batch of
1 and of 64. The remedy: run only a few fixed batch sizes (buckets), pad to them, and at load keep
only those whose output equals the reference bucket's bit for bit.
"""

import hashlib
import json
import math
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.model.graphs import Graph, Precision, build_graph, has_native_bf16
from training.model.networks.build import place
from training.model.networks.config import NetworkConfig

_PROBES = 64
_TIMED_TURNS, _TIMED_SEC = 10, 0.5
_OVERHEAD_BYTES = 1_000_000
_DISPATCH_SEC = 0.0005  # around a call: who is next, whose is which
_Z_STREAM, _CLASS_STREAM = 0, 1
_MAX_BF16_ERROR = (
    1.0  # of 255, on average over the pixels of the probes; trained ones have .1 to .3
)

Latents = NDArray[np.float32]
Classes = NDArray[np.int64 | np.float32]  # indices (n,), or weights (n, num_classes)
Pixels = NDArray[np.uint8]


class _Streams(threading.local):
    """One Philox a thread, set to where a seed begins: ten times faster than a new one."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=np.zeros(2, np.uint64))
        self._generator = np.random.Generator(self._philox)
        self._start = self._philox.state

    def at(self, seed: int, stream: int) -> np.random.Generator:
        # An explicit key: all 2^53 seeds differ (torch's CPU generator keeps 32 bits), and neither
        # batch nor device plays a part.
        self._start["state"]["key"][:] = seed, stream
        self._philox.state = self._start
        return self._generator


_streams = _Streams()


def latents_of(seeds: Sequence[int], z_dim: int) -> Latents:
    """Latents z ~ N(0, I), shape (n, z_dim); row i depends on seeds[i] alone (0 ≤ seed < 2^53)."""
    z = np.empty((len(seeds), z_dim), np.float32)
    for row, seed in zip(z, seeds, strict=True):
        row[:] = _streams.at(seed, _Z_STREAM).standard_normal(z_dim)
    return z


def classes_of(seeds: Sequence[int], num_classes: int) -> NDArray[np.int64]:
    """The class each seed stands for where none is asked for, shape (n,); zeros if unlabelled."""
    if not num_classes:
        return np.zeros(len(seeds), np.int64)
    return np.array([_streams.at(s, _CLASS_STREAM).integers(num_classes) for s in seeds], np.int64)


def class_weights(c: Classes, num_classes: int) -> NDArray[np.float32]:
    """Class indices (n,) → one-hot weights (n, num_classes); weights stay what they are."""
    if c.ndim == 2:
        return np.require(c, np.float32, ["C", "W"])  # torch warns of what it could not write to
    if not num_classes:
        return np.zeros((len(c), 0), np.float32)
    return np.eye(num_classes, dtype=np.float32)[c.astype(np.int64, copy=False)]


@dataclass(frozen=True)
class Certificate:
    """Where byte-for-byte equality holds: the same device kind, build, threads and buckets.

    probes: on how many seeds every bucket gave the reference's floats; the reference is the largest
    bucket. buckets: batch sizes that are run.
    """

    device: str
    capability: str
    torch: str
    precision: Precision
    threads: int
    probes: int
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

    costs: seconds that one call of each bucket took when it was loaded. num_bytes: what it keeps in
    memory, about.
    Raises ValueError for a generator that gives NaN, or whose images depend on one another.
    """

    def __init__(
        self,
        generator: nn.Module,
        config: NetworkConfig,
        device: torch.device,
        max_batch_size: int = 64,
    ) -> None:
        self.config = config
        self.num_bytes = _OVERHEAD_BYTES + sum(t.nbytes for t in generator.state_dict().values())
        generator = place(generator, device).eval()
        candidates = [2**i for i in range(max_batch_size.bit_length()) if 2**i <= max_batch_size]
        precision, self._graph, buckets = _certified(generator, config, device, candidates)
        self.certificate = Certificate(
            device=device.type,
            capability=_capability(device),
            torch=torch.__version__,
            precision=precision,
            threads=torch.get_num_threads() if device.type == "cpu" else 1,
            probes=_PROBES,
            buckets=buckets,
        )
        self.costs = _measured(self._graph, config, buckets)
        self._plan = _cheapest_first_bucket(self.costs)

    def __call__(self, z: Latents, c: Classes) -> Pixels:
        """z (n, z_dim), classes (n,) or weights (n, num_classes) → uint8 (n, H, W, C), n ≥ 1."""
        weights, start = class_weights(c, self.config.num_classes), 0
        parts: list[Pixels] = []
        while start < len(z):
            bucket = self.bucket(len(z) - start)
            rows = slice(start, start + bucket)
            parts.append(_run(self._graph, z[rows], weights[rows], bucket)[1])
            start += bucket
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def from_seeds(self, seeds: Sequence[int], classes: Classes | None = None) -> Pixels:
        """Images (n, H, W, C) of `seeds`; classes default to those drawn from the seeds."""
        c = classes_of(seeds, self.config.num_classes) if classes is None else classes
        return self(latents_of(seeds, self.config.z_dim), c)

    def bucket(self, n: int) -> int:
        """The batch size to run now where n images wait: padded if that costs less than two."""
        return self._plan[min(n, len(self._plan) - 1)]

    def seconds(self, n: int) -> float:
        """What n images cost, by the measured costs of the buckets they are run in."""
        largest = self.certificate.buckets[-1]
        total = (n // largest) * self.costs[largest]
        n %= largest
        while n > 0:
            total += self.costs[self.bucket(n)]
            n -= self.bucket(n)
        return total


def _certified(
    generator: nn.Module, config: NetworkConfig, device: torch.device, candidates: list[int]
) -> tuple[Precision, Graph, tuple[int, ...]]:
    """bf16 where the device has it, every bucket agrees in it and the pictures stay, else fp32."""

    def graph_in(precision: Precision) -> Graph:
        return build_graph(generator, config, device, precision)

    exact = graph_in("fp32")
    z, c = _probes(config, range(_PROBES))
    floats, pixels = _in_batches(exact, z, c, candidates[-1])
    if not torch.isfinite(floats).all():
        raise ValueError("the generator gives NaN or infinity; train it again")
    if has_native_bf16(device):
        quick = graph_in("bf16")
        error = np.abs(_in_batches(quick, z, c, candidates[-1])[1] - pixels.astype(np.float32))
        if error.mean() <= _MAX_BF16_ERROR and agreeing(quick, config, candidates) == candidates:
            return "bf16", quick, tuple(candidates)
    buckets = most_agreeing(exact, config, candidates)
    if not buckets:
        raise ValueError("an image of the generator depends on the others of its batch")
    return "fp32", exact, tuple(buckets)


def most_agreeing(graph: Graph, config: NetworkConfig, buckets: list[int]) -> list[int]:
    """`agreeing`, with the largest bucket that agrees with itself for the reference: on a GPU an
    image's floats may hang on its place in a large batch, and not in a smaller one."""
    ends = range(len(buckets), 0, -1)
    return next((found for n in ends if (found := agreeing(graph, config, buckets[:n]))), [])


def agreeing(graph: Graph, config: NetworkConfig, buckets: list[int]) -> list[int]:
    """Those that give each probe the exact floats of the largest one, whatever its neighbours; none
    if that one does not agree with itself.

    Floats are stricter than pixels: few probes tell two kernels apart.
    """
    z, c = _probes(config, range(_PROBES))
    reference = _in_batches(graph, z, c, buckets[-1])[0]

    def agrees(bucket: int) -> bool:
        order = np.random.default_rng(bucket).permutation(_PROBES)
        floats = _in_batches(graph, z[order], c[order], bucket)[0]
        return torch.equal(floats, reference[torch.from_numpy(order)])

    return [bucket for bucket in buckets if agrees(bucket)] if agrees(buckets[-1]) else []


def _probes(config: NetworkConfig, seeds: Sequence[int]) -> tuple[Latents, NDArray[np.float32]]:
    """Latents and class weights; every other one is a mix."""
    c = class_weights(classes_of(seeds, config.num_classes), config.num_classes)
    c[1::2] = 0.75 * c[1::2] + 0.25 * np.roll(c[1::2], 1, axis=1)
    return latents_of(seeds, config.z_dim), c


def _in_batches(
    graph: Graph, z: Latents, c: NDArray[np.float32], bucket: int
) -> tuple[Tensor, Pixels]:
    starts = range(0, len(z), bucket)
    parts = [_run(graph, z[i : i + bucket], c[i : i + bucket], bucket) for i in starts]
    return torch.cat([floats for floats, _ in parts]), np.concatenate(
        [pixels for _, pixels in parts]
    )


@torch.inference_mode()
def _run(graph: Graph, z: Latents, c: NDArray[np.float32], bucket: int) -> tuple[Tensor, Pixels]:
    """One call: the floats, (n, C, H, W), and the pixels, (n, H, W, C), of n ≤ bucket latents."""
    n = len(z)
    if n < bucket:
        z = np.concatenate([z, np.zeros((bucket - n, z.shape[1]), np.float32)])
        c = np.concatenate([c, np.zeros((bucket - n, c.shape[1]), np.float32)])
    floats, pixels = graph(torch.from_numpy(z), torch.from_numpy(c))
    # A device's buffers are overwritten by the next call; on a CPU both are new at each.
    return floats[:n].cpu(), pixels[:n].cpu().numpy()


def _measured(graph: Graph, config: NetworkConfig, buckets: Sequence[int]) -> dict[int, float]:
    """Seconds of a call of each bucket: the least of a few, taken in turn, since what else runs on
    this machine comes and goes."""
    z, c = _probes(config, range(buckets[-1]))
    least = dict.fromkeys(buckets, math.inf)
    began = time.perf_counter()
    for turn in range(_TIMED_TURNS):
        for bucket in buckets:
            start = time.perf_counter()
            _run(graph, z[:bucket], c[:bucket], bucket)
            least[bucket] = min(least[bucket], time.perf_counter() - start)
        if turn and time.perf_counter() - began > _TIMED_SEC:
            break
    return least


def _cheapest_first_bucket(costs: Mapping[int, float]) -> list[int]:
    """For 0, 1, … images up to the largest bucket: which to run first for the least total."""
    costs = {bucket: cost + _DISPATCH_SEC for bucket, cost in costs.items()}
    first, total = [0], [0.0]
    for n in range(1, max(costs) + 1):
        options = ((cost + total[max(0, n - bucket)], -bucket) for bucket, cost in costs.items())
        least, bucket = min(options)
        first.append(-bucket)
        total.append(least)
    return first


def _capability(device: torch.device) -> str:
    # The CPU's too where a GPU draws: files are deflated by kernels that are picked by it.
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{torch.cuda.get_device_name(device)}, {cpu}" if device.type == "cuda" else cpu
