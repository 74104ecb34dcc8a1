"""Owns what a child process of the service gets to see of its environment."""

import os
from collections.abc import Sequence


def scrubbed_environment(gpus: Sequence[int] = ()) -> dict[str, str]:
    """Ours without our settings: the key among them is no business of a trainer or a decoder.

    gpus: which GPUs, of those we see, the child is to see; all of them if none is named.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("NOISEWELL_")}
    if not gpus:
        return ours
    visible = ours.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(n) for n in range(max(gpus) + 1)]
    if max(gpus) >= len(names):
        raise ValueError(
            f"training_devices names cuda:{max(gpus)}, CUDA_VISIBLE_DEVICES={visible} shows"
            f" {len(names)}; count from 0 among those"
        )
    return {**ours, "CUDA_VISIBLE_DEVICES": ",".join(names[n] for n in gpus)}
