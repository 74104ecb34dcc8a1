"""Owns the generator as one call from latents to pixels: traced on a CPU, captured on CUDA.

A module called from Python takes the interpreter's lock once an operator, and beside a busy event
loop waits for it as often: 33 ms instead of 2.6 for 16 images. A graph takes it once.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Literal, cast

import torch
from torch import Tensor, nn

from training.model.networks.build import build_generator, place
from training.model.networks.config import NetworkConfig
from training.model.pixels import to_uint8

Precision = Literal["fp32", "bf16"]
Graph = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_TRACED_BATCH = 4
_WARM_UP_CALLS = 3
_CAST_BY_AUTOCAST = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 in hardware. By its flags, not by a clock: the answer must
    be the same at every start, since it decides the bytes."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def build_graph(
    generator: nn.Module, config: NetworkConfig, device: torch.device, precision: Precision
) -> Graph:
    """`generator`, built by `config`, in eval mode on `device`, as a function of z (B, z_dim) and
    class weights (B, num_classes).

    Returns floats (B, C, H, W) and pixels (B, H, W, C), both valid until the next call.
    """
    if device.type == "cpu":
        traced, weights = _traced(config, precision), _weights(generator, precision)
        return lambda z, c: traced(z, c, *weights)

    def call(z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return _pictures(generator(z.to(device), c.to(device)))

    return _Captured(call, device) if device.type == "cuda" else call


def _pictures(images: Tensor) -> tuple[Tensor, Tensor]:
    return images, to_uint8(images).permute(0, 2, 3, 1).contiguous()


def _weights(generator: nn.Module, precision: Precision) -> list[Tensor]:
    """Parameters and buffers in their order, in bf16 where autocast would cast at each call."""
    cast_before = {
        f"{path}.{name}"
        for path, module in generator.named_modules()
        if precision == "bf16" and isinstance(module, _CAST_BY_AUTOCAST)
        for name, _ in module.named_parameters(recurse=False)
    }
    tensors = dict(generator.named_parameters()) | dict(generator.named_buffers())
    return [(t.bfloat16() if name in cast_before else t).detach() for name, t in tensors.items()]


@cache
def _traced(config: NetworkConfig, precision: Precision) -> Callable[..., tuple[Tensor, Tensor]]:
    """z, class weights and the tensors of a generator → its pictures.

    One for each architecture, and for good: torch never lets a traced graph go, so that one which
    held a version's weights would keep them in memory. Never written to disk.
    """
    generator = place(build_generator(config), torch.device("cpu")).eval().requires_grad_(False)
    weights = _weights(generator, precision)
    names = [*dict(generator.named_parameters()), *dict(generator.named_buffers())]

    def run(z: Tensor, c: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        for name, tensor in zip(names, tensors, strict=True):
            path, _, leaf = name.rpartition(".")
            module = generator.get_submodule(path)
            delattr(module, leaf)  # a slot for parameters takes no other tensor
            setattr(module, leaf, tensor)
        return _pictures(generator(z, c))

    z = torch.zeros(_TRACED_BATCH, config.z_dim)
    c = torch.zeros(_TRACED_BATCH, config.num_classes)
    with torch.no_grad(), warnings.catch_warnings():
        # Deprecated for torch.compile, which needs a C++ compiler where the service runs.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The cache would keep casts of weights as values from outside of the graph.
        with torch.autocast(
            "cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False
        ):
            graph = torch.jit.trace(run, (z, c, *weights), check_trace=False)
        run_traced = cast(Callable[..., tuple[Tensor, Tensor]], graph)
        for _ in range(_WARM_UP_CALLS):  # the first calls are the ones that optimise it
            run_traced(z, c, *weights)
    return run_traced


class _Captured:
    """A CUDA graph for each batch size, all in one memory pool; needs z and c on the CPU."""

    def __init__(self, call: Graph, device: torch.device) -> None:
        self._call = call
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[
            int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, ...]]
        ] = {}

    def __call__(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        if len(z) not in self._graphs:
            self._graphs[len(z)] = self._capture(z, c)
        graph, inputs, outputs = self._graphs[len(z)]
        for to, given in zip(inputs, (z, c), strict=True):
            to.copy_(given)
        graph.replay()
        return outputs[0], outputs[1]

    def _capture(
        self, z: Tensor, c: Tensor
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, ...]]:
        inputs = z.to(self._device), c.to(self._device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate their workspaces at the first calls
            for _ in range(_WARM_UP_CALLS):
                self._call(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Only this thread is held to the rules of a capture: another one may be serving meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = self._call(*inputs)
        return graph, inputs, outputs
