"""Owns the proof that a killed training loses nothing: kill -9 at random steps, same weights.

    python benchmarks/kills.py PACKED_DATASET OUT_DIR --n 20

One run goes through undisturbed; then each of n runs of the same command is killed (-9) once the
progress file shows a random number of images, started again, and its weights are hashed.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer


def main(
    data: Path,
    out: Path,
    n: Annotated[int, typer.Option(help="How many runs to kill.")] = 20,
    preset: str = "tiny",
    kimg: float = 20.0,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Print how many of n killed and resumed runs end with the weights of an undisturbed one."""
    command = [sys.executable, "-m", "training.train", "--data", str(data), "--preset", preset]
    command += ["--kimg", str(kimg), "--threads", "1", "--save-sec", "0.5"]
    out.mkdir(parents=True)
    straight = out / "straight"
    finish(command, straight)
    expected = digest(straight)
    rng, equal = random.Random(seed), 0
    for i in range(n):
        run_dir = out / f"killed-{i}"
        kill_at = rng.uniform(0.02, 0.95) * kimg * 1000
        killed_at = kill_when(command, run_dir, kill_at)
        finish(command, run_dir)
        same = digest(run_dir) == expected
        equal += same
        events = (run_dir / "events.jsonl").read_text().splitlines()
        print(f"{i + 1}: killed at {killed_at} images, {events[-1]}, same weights: {same}")
    print(f"{equal} of {n} killed runs ended with the weights of the undisturbed one")
    raise SystemExit(equal != n)


def finish(command: list[str], run_dir: Path) -> None:
    subprocess.run([*command, "--run-dir", str(run_dir)], check=True, stderr=subprocess.DEVNULL)


def kill_when(command: list[str], run_dir: Path, nimg: float) -> int:
    """Start the run and kill -9 it once it has seen nimg images; what it had seen then."""
    process = subprocess.Popen(
        [*command, "--run-dir", str(run_dir)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while (seen := seen_by(run_dir)) < nimg and process.poll() is None:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)  # another process's file: nothing tells of its change
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return seen


def seen_by(run_dir: Path) -> int:
    try:
        return json.loads((run_dir / "progress.json").read_text()).get("cur_nimg", 0)
    except OSError:
        return 0


def digest(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "generator.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    typer.run(main)
