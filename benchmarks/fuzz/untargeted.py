"""Owns what is taken away from schemathesis: climbing towards cases that succeed.

Hypothesis spends minutes on it where an answer hardly depends on the text in a path, and sends
nothing meanwhile. schemathesis loads this module by SCHEMATHESIS_HOOKS.
"""

import hypothesis


def _nothing(observation: float, *, label: str = "") -> float:
    return observation


hypothesis.target = _nothing
