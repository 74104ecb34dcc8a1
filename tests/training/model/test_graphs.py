import gc

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from training.model import graphs
from training.model.graphs import build_graph, has_native_bf16
from training.model.networks.build import build_generator, place
from training.model.networks.config import NetworkConfig
from training.model.pixels import to_uint8

CPU = torch.device("cpu")
CONFIGS = {
    "dense": NetworkConfig("dense", 8, 1, 3, 8, (16, 16)),
    "dcgan": NetworkConfig("dcgan", 8, 3, 3, 8, (16, 8)),
    "strided": NetworkConfig("strided", 8, 3, 3, 8, (16, 8)),
    "modulated": NetworkConfig("strided", 8, 3, 3, 8, (16, 8), modulation=True),
    "r3gan": NetworkConfig("r3gan", 8, 3, 3, 8, (16, 8), blocks=1),
    "unlabelled": NetworkConfig("strided", 8, 1, 0, 8, (16, 8)),
}
each = pytest.mark.parametrize("name", CONFIGS)


def make(config: NetworkConfig, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return place(build_generator(config), CPU).eval().requires_grad_(False)


def inputs(config: NetworkConfig, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(n)
    z = rng.standard_normal((n, config.z_dim)).astype(np.float32)
    c = rng.dirichlet(np.ones(config.num_classes), n) if config.num_classes else np.zeros((n, 0))
    return torch.from_numpy(z), torch.from_numpy(c.astype(np.float32))


@each
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("n", [1, 4, 7])
def test_a_graph_gives_what_the_module_gives_to_the_bit(
    name: str, precision: graphs.Precision, n: int
) -> None:
    config = CONFIGS[name]
    generator = make(config)
    graph = build_graph(generator, config, CPU, precision)
    z, c = inputs(config, n)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
        expected = generator(z, c)
    with torch.inference_mode():
        floats, pixels = graph(z, c)
    assert torch.equal(floats, expected)
    assert torch.equal(pixels, to_uint8(expected).permute(0, 2, 3, 1))


def test_two_generators_of_one_architecture_keep_their_own_weights() -> None:
    config = CONFIGS["strided"]
    first, second = (build_graph(make(config, seed), config, CPU, "fp32") for seed in (1, 2))
    z, c = inputs(config, 4)
    before = first(z, c)[0]
    assert not torch.equal(second(z, c)[0], before)
    assert torch.equal(first(z, c)[0], before)


def test_an_architecture_is_traced_once() -> None:
    # torch never lets a traced graph go: one for each version would be a leak.
    config = CONFIGS["strided"]
    build_graph(make(config), config, CPU, "fp32")
    before = graphs._traced.cache_info().misses
    for seed in range(3):
        build_graph(make(config, seed), config, CPU, "fp32")
    assert graphs._traced.cache_info().misses == before


def test_weights_go_when_their_graph_goes() -> None:
    config = CONFIGS["strided"]
    generator = make(config)
    weights = [StorageWeakRef(t.untyped_storage()) for t in generator.parameters()]
    graph = build_graph(generator, config, CPU, "fp32")
    graph(*inputs(config, 4))
    del generator, graph
    gc.collect()
    assert all(weight.expired() for weight in weights)


def test_whether_bf16_is_native_is_a_fact_and_not_a_measurement() -> None:
    assert len({has_native_bf16(CPU) for _ in range(20)}) == 1
    assert not has_native_bf16(torch.device("meta"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each
def test_a_captured_graph_gives_what_the_module_gives(name: str) -> None:
    config, device = CONFIGS[name], torch.device("cuda")
    generator = place(make(config), device)
    graph = build_graph(generator, config, device, "fp32")
    for n in (4, 1, 4):
        z, c = inputs(config, n)
        floats = graph(z, c)[0].clone()
        assert torch.allclose(floats, generator(z.to(device), c.to(device)), atol=1e-5)
        assert torch.equal(floats, graph(z, c)[0])
