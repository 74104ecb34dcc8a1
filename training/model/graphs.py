"""Owns the generator as one call from latents to pixels: traced on a CPU, captured on CUDA.

A module called from Python takes the interpreter's lock once an operator, and beside a busy event
loop waits for it as often: 33 ms instead of 2.6 for 16 images. A graph takes it once.
"""

import copy
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
        traced = copy.deepcopy(_traced(config, precision))
        weights = dict(generator.named_parameters()) | dict(generator.named_buffers())
        traced.generator.load_state_dict(weights)  # cast where it is bf16
        return lambda z, c: traced(z, c)[:2]

    def call(z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return _pictures(generator(z.to(device), c.to(device)))

    return _Captured(call, device) if device.type == "cuda" else call


def _pictures(images: Tensor) -> tuple[Tensor, Tensor]:
    return images, to_uint8(images).permute(0, 2, 3, 1).contiguous()


class _Traceable(nn.Module):
    """What is traced. It gives its inputs back: each tensor that Python holds takes the lock when
    it is used for the last time, and so these are when the call is over."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return *_pictures(self.generator(z, c)), z, c


@cache
def _traced(config: NetworkConfig, precision: Precision) -> torch.jit.ScriptModule:
    """A generator of this architecture, of which copies take the weights of versions.

    One for each architecture, and for good: torch never lets the code of a traced module go. The
    code holds no weights; frozen, it would. Never written to disk.
    """
    generator = place(build_generator(config), torch.device("cpu")).eval().requires_grad_(False)
    if precision == "bf16":  # what autocast would do to these at each call
        for module in generator.modules():
            if isinstance(module, _CAST_BY_AUTOCAST):
                module.bfloat16()
    inputs = (
        torch.zeros(_TRACED_BATCH, config.z_dim),
        torch.zeros(_TRACED_BATCH, config.num_classes),
    )
    with torch.no_grad(), warnings.catch_warnings():
        # Deprecated for torch.compile, which needs a C++ compiler where the service runs.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The cache would keep casts of weights as values from outside of the graph.
        with torch.autocast(
            "cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False
        ):
            traced = torch.jit.trace(_Traceable(generator).eval(), inputs, check_trace=False)
        module = cast(torch.jit.ScriptModule, traced)
        for _ in range(_WARM_UP_CALLS):  # the first calls are the ones that optimise it
            module(*inputs)
    return module


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
