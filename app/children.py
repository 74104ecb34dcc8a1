"""Owns what a child process of the service gets to see of its environment."""

import os


def scrubbed_environment() -> dict[str, str]:
    """Ours without our settings: the key among them is no business of a trainer or a decoder."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NOISEWELL_")}
