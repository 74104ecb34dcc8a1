"""Owns how many CPU threads torch gets where nobody said."""

import os


def half_the_cores() -> int:
    """Half of them, at least one: for the service, and for training beside it.

    Two processes whose torch threads outnumber the cores slow each other up to a hundredfold,
    because a thread that waits at a barrier spins on the core that another one needs. Networks of
    this size gain little from the other half: docs/log.md, 2026-11-23.
    """
    return max(1, (os.cpu_count() or 2) // 2)
