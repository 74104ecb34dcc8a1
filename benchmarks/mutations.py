"""Owns the proof that damage is never served: every flipped bit, and 100,000 mutations.

    python benchmarks/mutations.py --n 100000

A model of two tiny versions is damaged, one file at a time (weights, manifest, aliases), and read
as the service reads it. It must be refused or be what it was: `unchanged` if the mutation said
nothing, such as a space. What is WRONG, or any exception but those of damage, ends the command with
1. A seed draws the same kinds and places; the digests they hit name the hour they were made in.
"""

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from app.engine import read_version
from training.model.checkpoint import CheckpointError, serialize
from training.model.networks.build import build_generator, num_parameters
from training.model.networks.config import NetworkConfig
from training.model.registry import DamagedError, Registry

MODEL, CHAMPION = "toy", 2
FILES = (f"{CHAMPION}/generator.safetensors", f"{CHAMPION}/manifest.json", "aliases.json")
NETWORK = NetworkConfig("dense", 2, 1, 2, 2, (2,), embed_dim=1)
TOKENS = (
    b'"',
    b"{",
    b"}",
    b",",
    b"null",
    b"1",
    b"2",
    b"-1",
    b"1e999",
    b"NaN",
    b"\xff",
    b"\0",
    b"[",
)

Mutation = Callable[[random.Random, bytes], bytes]


def flip_bit(rng: random.Random, data: bytes) -> bytes:
    i = rng.randrange(len(data))
    return data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :]


def set_bytes(rng: random.Random, data: bytes) -> bytes:
    i = rng.randrange(len(data))
    new = rng.randbytes(rng.randint(1, 16))
    return data[:i] + new + data[i + len(new) :]


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(rng: random.Random, data: bytes) -> bytes:
    i = rng.randrange(len(data) + 1)
    return data[:i] + rng.choice((rng.randbytes(rng.randint(1, 16)), rng.choice(TOKENS))) + data[i:]


def cut(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 64) :]


def swap(rng: random.Random, data: bytes) -> bytes:
    """Two pieces change places."""
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def edit_start(rng: random.Random, data: bytes) -> bytes:
    """The header of the weights, or the first fields of JSON."""
    i = rng.randrange(min(64, len(data)))
    return data[:i] + rng.choice(TOKENS) + data[i + rng.randrange(4) :]


def change_digit(rng: random.Random, data: bytes) -> bytes:
    """A number or a digest that reads as well as before."""
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    i = rng.choice(places or [0])
    return data[:i] + str(rng.randrange(10)).encode() + data[i + 1 :]


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bit, set_bytes, truncate, insert, cut, swap, edit_start, change_digit),
)


def make_registry(root: Path) -> Registry:
    """Two versions; the second is the champion."""
    registry = Registry(root)
    for seed in (1, 2):
        torch.manual_seed(seed)
        generator = build_generator(NETWORK)
        manifest = {
            "network": NETWORK.to_json(),
            "class_names": ["cat", "dog"],
            "num_parameters": num_parameters(generator),
            "lineage": {"dataset": "shapes", "dataset_hash": "0" * 64, "job": None},
        }
        files = {"card.md": b"# A toy\n", "samples.png": b"PNG", "metrics.json": b"{}"}
        weights = serialize(generator.state_dict())
        registry.register(MODEL, {**files, "generator.safetensors": weights}, manifest, f"{seed}")
    registry.promote(MODEL, CHAMPION, "better")
    return registry


def served(registry: Registry) -> tuple[Any, ...]:
    """All that an answer depends on, read as the service reads it."""
    champion = registry.champion(MODEL)
    assert champion is not None
    generator, network, manifest = read_version(registry.path(MODEL, champion))
    weights = serialize(generator.state_dict())
    told = {name: manifest.get(name) for name in ("digest", "class_names", "lineage")}
    return champion, registry.aliases(MODEL).get("previous"), network, weights, told


def outcome(registry: Registry, good: tuple[Any, ...]) -> str:
    try:
        found = served(registry)
    except (CheckpointError, DamagedError):
        return "refused"
    except Exception as error:  # noqa: BLE001 (any other is what is looked for)
        return f"CRASH {type(error).__name__}: {error}"
    return "unchanged" if found == good else "WRONG"


def flip_all(registry: Registry, good: tuple[Any, ...]) -> Counter[str]:
    """Every byte of the weights, each of its bits."""
    path = registry.root / MODEL / FILES[0]
    data, outcomes = path.read_bytes(), Counter[str]()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        outcomes[outcome(registry, good)] += 1
    path.write_bytes(data)
    return outcomes


def mutate(
    registry: Registry, good: tuple[Any, ...], n: int, seed: int
) -> Counter[tuple[str, str]]:
    """n times one to three mutations of one file; counted by file and outcome."""
    rng, outcomes = random.Random(seed), Counter[tuple[str, str]]()
    originals = {name: (registry.root / MODEL / name).read_bytes() for name in FILES}
    for _ in range(n):
        name = rng.choice(FILES)
        data = originals[name]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = rng.choice(MUTATIONS)(rng, data) if data else rng.choice(TOKENS)
        path = registry.root / MODEL / name
        path.write_bytes(data)
        found = "same bytes" if data == originals[name] else outcome(registry, good)
        outcomes[Path(name).name, found] += 1
        path.write_bytes(originals[name])
    return outcomes


def main(
    n: Annotated[int, typer.Option(help="Random mutations.")] = 100_000, seed: int = 0
) -> None:
    """Damage a version in every way, and count what is served of it."""
    torch.set_num_threads(1)
    console, began = Console(), time.perf_counter()
    memory = Path("/dev/shm")  # a disk would only take time
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        registry = make_registry(Path(folder))
        good = served(registry)
        flips = flip_all(registry, good)
        outcomes = mutate(registry, good, n, seed)
    table = Table("file", "outcome", "mutations")
    for (name, found), count in sorted(outcomes.items()):
        table.add_row(name, found, f"{count:,}")
    console.print(table)
    took = time.perf_counter() - began
    console.print(f"every bit of the weights: {dict(flips)}; seed {seed}, {took:.0f} s on one core")
    bad = [
        found for found in [*flips, *(f for _, f in outcomes)] if found[:5] in ("WRONG", "CRASH")
    ]
    raise SystemExit(1 if bad or flips.keys() != {"refused"} else 0)


if __name__ == "__main__":
    typer.run(main)
