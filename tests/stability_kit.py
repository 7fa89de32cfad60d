"""What the tests of stability share: arms of made-up scores."""

import numpy as np
from softprompt.study.stability import (
    Arm,
)

RANDOM = np.random.default_rng(0)


FIRST, SECOND = 0.7 + 0.05 * RANDOM.normal(size=20), 0.65 + 0.12 * RANDOM.normal(size=20)


def arm(name, scores, chance: float | None = 0.5, seeds=None, **rest):
    return Arm(name=name, seeds=tuple(seeds or range(len(scores))), scores=tuple(scores), chance=chance, **rest)


BASE = {"task": "lab/opinion", "model": "m", "steps": 4}
