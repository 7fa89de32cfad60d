"""How far the layers move the states at a prompt's positions, beside its score."""

import dataclasses
from typing import Any

from ..drift import drift
from ._base import Analysis, Values, short
from ._bench import Bench


def compute(bench: Bench) -> Values:
    """The states after each layer, and the score on the same number of rows."""
    prompts = []
    for subject in bench.subjects:
        texts = bench.examples(subject, bench.drawn(subject))
        layers = drift(bench.backbone(subject), subject.prompt, texts)
        score = bench.score(subject, subject.prompt)
        prompts.append(
            {"prompt": subject.label, "score": score, "layers": [dataclasses.asdict(layer) for layer in layers]}
        )
    return {"rows": bench.rows, "prompts": prompts}


def draw(values: Values, figures: Any) -> Any:
    """How far a state has moved, after each layer."""
    curves = {
        f"{name} ({p['score']:.3f})": (
            [layer["layer"] for layer in p["layers"]], [layer["moved"] for layer in p["layers"]], None, None
        )
        for name, p in zip(short(values), values["prompts"], strict=True)
    }  # fmt: skip
    return figures.curve_figure(curves, x="after layer", y="moved, of the vector's length", log_x=False, log_y=True)


def rows(values: Values) -> list[dict[str, Any]]:
    """The first and the last layer."""
    return [
        {"prompt": p["prompt"], "score": p["score"], "layer": layer["layer"], "moved": layer["moved"],
         "cosine kept": layer["kept"], "depends on the text": layer["varies"]}
        for p in values["prompts"]
        for layer in (p["layers"][0], p["layers"][-1])
    ]  # fmt: skip


DRIFT = Analysis("how far the layers move the states at the prompt, beside its score", compute, draw, rows)
