import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from training.model import sampling
from training.model.networks.build import build_generator
from training.model.networks.config import NetworkConfig
from training.model.sampling import (
    Certificate,
    Sampler,
    agreeing,
    classes_of,
    latents_of,
    most_agreeing,
    pick_device,
)

CONFIG = NetworkConfig("strided", 8, 1, 3, 8, (8, 4), embed_dim=4)
CPU = torch.device("cpu")
LAST = 2**53 - 1


def make_sampler(max_batch_size: int = 64, device: torch.device = CPU) -> Sampler:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Sampler(build_generator(CONFIG), CONFIG, device, max_batch_size)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return make_sampler()


# Seeds


@pytest.mark.parametrize(
    ("seed", "latent", "class_"),
    [
        (0, [0.15929547, -1.7741885, 1.3265119, 1.2048091], 9),
        (7, [-1.7496945, 0.57454413, 0.6142834, 0.29785973], 7),
        (2**32 + 7, [0.79373085, 1.7860209, -0.57521105, 0.19426394], 0),
        (LAST, [0.6482801, -1.3574823, 1.413081, 1.2583482], 7),
    ],
)
def test_a_seed_means_the_same_for_ever(seed: int, latent: list[float], class_: int) -> None:
    assert np.array_equal(latents_of([seed], 4)[0], np.array(latent, np.float32))
    assert classes_of([seed], 10)[0] == class_


def test_every_bit_of_a_seed_counts() -> None:
    seeds = [0, *(2**bit for bit in range(53)), *(2**32 + s for s in range(2, 1000)), LAST]
    seeds += range(3, 1000, 2)
    assert len(set(seeds)) == len(seeds)
    assert len(np.unique(latents_of(seeds, 2), axis=0)) == len(seeds)


def test_a_latent_depends_on_its_seed_alone() -> None:
    together = latents_of([5, LAST, 5, 0], 16)
    assert np.array_equal(together[1], latents_of([LAST], 16)[0])
    assert np.array_equal(together[0], together[2])


def test_a_longer_latent_begins_like_a_shorter_one() -> None:
    assert np.array_equal(latents_of([3], 64)[:, :8], latents_of([3], 8))


def test_latents_are_standard_normal() -> None:
    z = latents_of(range(2000), 64).astype(np.float64)
    # 128,000 numbers: a right generator misses these by chance less than once in a million seeds.
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    assert abs(np.mean(z[:-1] * z[1:])) < 5 / np.sqrt(z.size)


def test_seeds_stand_for_each_class_alike() -> None:
    counts = np.bincount(classes_of(range(10_000), 10), minlength=10)
    # χ² with 9 degrees of freedom is above 47 less than once in a million.
    assert ((counts - 1000) ** 2 / 1000).sum() < 47


def test_without_classes_every_seed_has_class_zero() -> None:
    assert classes_of([1, 2, LAST], 0).tolist() == [0, 0, 0]


# Batches


def test_all_certified_buckets_give_the_same_bytes(sampler: Sampler) -> None:
    seeds = range(sampler.certificate.buckets[-1])
    reference = sampler.from_seeds(seeds)
    for size in sampler.certificate.buckets:
        parts = [sampler.from_seeds(seeds[i : i + size]) for i in range(0, len(seeds), size)]
        assert np.array_equal(np.concatenate(parts), reference)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 63, 64, 65, 200])
def test_an_image_does_not_depend_on_its_neighbours(sampler: Sampler, n: int) -> None:
    alone = sampler.from_seeds([77])[0]
    seeds = [1000 + i for i in range(n)]
    for place in {0, n // 2, n - 1}:
        among = sampler.from_seeds([*seeds[:place], 77, *seeds[place + 1 :]])
        assert np.array_equal(among[place], alone)


def test_any_number_of_images_comes_whole(sampler: Sampler) -> None:
    images = sampler.from_seeds(range(130))
    assert (images.shape, images.dtype) == ((130, 8, 8, 1), np.uint8)
    assert len(np.unique(images.reshape(130, -1), axis=0)) == 130


@pytest.mark.parametrize("max_batch_size", [1, 3, 64, 100])
def test_buckets_are_powers_of_two_up_to_the_largest_batch(max_batch_size: int) -> None:
    buckets = make_sampler(max_batch_size).certificate.buckets
    assert all(b & (b - 1) == 0 for b in buckets)
    assert max_batch_size / 2 < buckets[-1] <= max_batch_size


class Wavering:
    """Answers batches of 1 and 2 a little differently, as convolution kernels do."""

    def __call__(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.tanh(z[:, :1, None, None] + c[:, :1, None, None])
        return (images + 1e-7 if len(z) <= 2 else images), images.to(torch.uint8)


class Nosy:
    """Lets the neighbours of an image show in it."""

    def __call__(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        images = (z + 1e-6 * z.mean(dim=0))[:, :1, None, None]
        return images, images.to(torch.uint8)


def test_a_bucket_that_answers_otherwise_is_not_used() -> None:
    assert agreeing(Wavering(), CONFIG, [1, 2, 4, 8, 16]) == [4, 8, 16]


def test_a_bucket_in_which_neighbours_show_is_not_used() -> None:
    assert agreeing(Nosy(), CONFIG, [2, 4, 8]) == []


class Crowded:
    """Lets an image's place show in it where a batch is larger than 4."""

    def __call__(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        place = 1e-6 * torch.arange(len(z))[:, None] if len(z) > 4 else 0
        images = (z + place)[:, :1, None, None]
        return images, images.to(torch.uint8)


def test_where_the_place_in_a_large_batch_shows_smaller_ones_are_used() -> None:
    assert agreeing(Crowded(), CONFIG, [1, 2, 4, 8]) == []
    assert most_agreeing(Crowded(), CONFIG, [1, 2, 4, 8, 16]) == [1, 2, 4]


def test_the_certified_buckets_are_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def graph(z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(z))
        images, _ = Wavering()(z, c)
        return images, torch.zeros(len(z), 8, 8, 1, dtype=torch.uint8)

    monkeypatch.setattr(sampling, "build_graph", lambda *args: graph)
    sampler = make_sampler(max_batch_size=16)
    assert (sampler.certificate.buckets, sampler.certificate.precision) == ((4, 8, 16), "fp32")
    seen.clear()
    assert sampler.from_seeds(range(17)).shape == (17, 8, 8, 1)
    assert set(seen) <= {4, 8, 16}
    assert sum(seen) >= 17


@pytest.mark.parametrize(
    ("costs", "n", "bucket"),
    [
        ({1: 1.0, 4: 2.0, 8: 3.0}, 1, 1),
        ({1: 1.0, 4: 2.0, 8: 3.0}, 3, 4),  # 2 instead of three times 1
        ({1: 1.0, 4: 2.0, 8: 3.0}, 5, 8),
        ({1: 0.1, 4: 2.0, 8: 3.9}, 5, 1),
        ({1: 1.0, 4: 4.0, 8: 8.0}, 5, 4),  # 4 and 1, not 8
        ({4: 2.0, 8: 3.0}, 1, 4),
        ({4: 2.0, 8: 3.0}, 100, 8),
    ],
)
def test_the_bucket_is_the_one_that_costs_least(
    sampler: Sampler, costs: dict[int, float], n: int, bucket: int
) -> None:
    sampler = copy.copy(sampler)
    sampler.costs, sampler._plan = costs, sampling._cheapest_first_bucket(costs)
    assert sampler.bucket(n) == bucket


def test_what_images_cost_is_the_sum_of_their_buckets(sampler: Sampler) -> None:
    sampler = copy.copy(sampler)
    sampler.certificate = replace(sampler.certificate, buckets=(1, 4, 8))
    sampler.costs = {1: 1.0, 4: 2.0, 8: 3.0}
    sampler._plan = sampling._cheapest_first_bucket(sampler.costs)
    assert [sampler.seconds(n) for n in (0, 1, 3, 8, 20)] == [0, 1, 2, 3, 8]


def test_a_class_and_the_mix_that_is_only_it_give_the_same_bytes(sampler: Sampler) -> None:
    seeds, c = range(9), np.arange(9) % 3
    one_hot = np.eye(3, dtype=np.float32)[c]
    assert np.array_equal(sampler.from_seeds(seeds, c), sampler.from_seeds(seeds, one_hot))


def test_a_mix_is_neither_of_its_classes(sampler: Sampler) -> None:
    mix = np.array([[0.5, 0.5, 0.0]], np.float32)
    mixed = sampler.from_seeds([4], mix)
    assert not any(np.array_equal(mixed, sampler.from_seeds([4], np.array([c]))) for c in (0, 1))


def test_a_mix_does_not_depend_on_its_neighbours(sampler: Sampler) -> None:
    mixes = np.random.default_rng(0).dirichlet(np.ones(3), 40).astype(np.float32)
    together = sampler.from_seeds(range(40), mixes)
    alone = [sampler.from_seeds([i], mixes[i : i + 1])[0] for i in range(40)]
    assert np.array_equal(together, alone)


def test_a_generator_that_gives_no_numbers_is_refused() -> None:
    generator = build_generator(CONFIG)
    with torch.no_grad():
        next(generator.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        Sampler(generator, CONFIG, CPU)


def test_a_class_asked_for_is_the_class_that_is_drawn(sampler: Sampler) -> None:
    drawn = classes_of([4], 3)
    cat, dog = (sampler.from_seeds([4], np.array([c])) for c in (1, 2))
    assert not np.array_equal(cat, dog)
    assert np.array_equal(sampler.from_seeds([4], drawn), sampler.from_seeds([4]))


# Certificates and devices


def test_a_certificate_has_another_name_when_anything_differs() -> None:
    certificate = Certificate("cpu", "x86_64 AVX2", "2.13.0", "fp32", 1, 64, (4, 8))
    others = [
        replace(certificate, device="cuda"),
        replace(certificate, capability="x86_64 AVX512"),
        replace(certificate, torch="2.14.0"),
        replace(certificate, precision="bf16"),
        replace(certificate, threads=2),
        replace(certificate, buckets=(8,)),
    ]
    names = {certificate.id(), certificate.id("png 2"), *(other.id() for other in others)}
    assert len(names) == 8
    assert certificate.id() == replace(certificate).id()


def test_two_samplers_of_one_machine_share_a_certificate(sampler: Sampler) -> None:
    assert make_sampler().certificate == sampler.certificate


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_auto_falls_back_to_the_cpu() -> None:
    assert pick_device("auto") in (CPU, torch.device("mps"))


@pytest.mark.parametrize("name", ["tpu", "", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"device {name!r} is not available"):
        pick_device(name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_an_image_does_not_depend_on_its_neighbours() -> None:
    sampler = make_sampler(device=torch.device("cuda"))
    alone = np.concatenate([sampler.from_seeds([seed]) for seed in range(64)])
    assert np.array_equal(sampler.from_seeds(range(64)), alone)
