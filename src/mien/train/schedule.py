"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no state."""

from __future__ import annotations

import math

from mien.errors import OptionError

SCHEDULES = ("cosine", "linear", "constant")


def rate(step: int, steps: int, *, kind: str = "cosine", warmup: int = 0, final: float = 0.01) -> float:
    """Factor on the learning rate at `step` of `steps`: linear warm-up, then down to `final`.

    ``cosine`` follows Loshchilov and Hutter (SGDR, 2017) without restarts.
    """
    if kind not in SCHEDULES:
        raise OptionError("unknown learning-rate schedule", got=kind, expected=", ".join(SCHEDULES))
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if kind == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
    if kind == "linear":
        return final + (1 - final) * (1 - done)
    return 1.0
