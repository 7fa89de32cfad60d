"""What the tests of the study of methods share."""

TASK = "lab/opinion"


def run(score: float | None = 0.5, **other):
    values = {"score": score, "validation": None, "train": None, "loss": 0.1, "norm": None, "steps": 3, "majority": 0.5}
    return {**values, "lr": 0.1, "seconds": 1.0, "status": "finished", **other}


def trials(scores: dict[float, float], loss: float = 1.0):
    return {repr(rate): {TASK: {"900": [score, loss]}} for rate, score in scores.items()}
