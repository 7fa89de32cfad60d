"""Figures of a demonstration: norms of prompt vectors over steps, and cosines between them before and after."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..analysis import cosines, distinct, mean_cosine, norm_curve
from ..backbones import AbstractBackbone
from ..prompts.initializers import uniform
from ..prompts.methods import METHODS
from ..prompts.trainable import TrainablePrompt
from ..prompts.units import BAND, WordScale
from ..settings import PromptSettings
from ..store import json_bytes, write_file
from .compared import TaskReport

log = logging.getLogger("softprompt")


def draw(
    report: TaskReport, backbone: AbstractBackbone, prompts: Sequence[PromptSettings], folder: Path, name: str
) -> None:
    """The numbers of the figures, and the figures where there is a library to draw them."""
    words = WordScale.of(backbone.word_vectors)
    curves: dict[str, list[dict[str, Any]]] = {}
    pairs: dict[str, dict[str, Any]] = {}
    for prompt, result in zip(prompts, report.run.results, strict=True):
        if METHODS[prompt.method].m == 0 or not result.metrics:
            continue
        end = report.run.prompt(result.prompt).vectors
        curves.setdefault(prompt.method, []).append(_curve(report.run.folder / result.prompt, result.seed))
        if len(end) > 1 and prompt.method not in pairs:
            start = TrainablePrompt.build(prompt, uniform(), backbone.word_vectors, None, words).folded().cpu()
            pairs[prompt.method] = {"seed": result.seed, "step 0": _angles(start), "trained": _angles(end)}
    _write(folder / f"{name}-norms", {"token_norm": words.token_norm, "band": BAND, "curves": curves})
    _write(folder / f"{name}-cosines", pairs)
    try:
        from ..analysis import plots
    except ModuleNotFoundError as error:
        log.warning("no figures are drawn, only their numbers written: %s; pip install matplotlib", error)
        return
    lines = {method: [(c["steps"], c["token_norms"]) for c in seeds] for method, seeds in curves.items()}
    figures = {f"{name}-norms.png": plots.norm_figure(lines, band=BAND, title=report.task.name)}
    if pairs:
        sides = {m: (pair["step 0"]["cosines"], pair["trained"]["cosines"]) for m, pair in pairs.items()}
        figures[f"{name}-cosines.png"] = plots.cosine_figure(sides, title=report.task.name)
    for file, figure in figures.items():
        write_file(folder / file, plots.image(figure, file), what="a figure")


def _curve(prompt: Path, seed: int) -> dict[str, Any]:
    """The mean norms that training recorded."""
    curve = norm_curve(prompt)
    return {"seed": seed, "steps": curve.steps, "raw": curve.raw, "token_norms": curve.token_norms}


def _angles(vectors: torch.Tensor) -> dict[str, Any]:
    return {"mean": mean_cosine(vectors), "cosines": cosines(distinct(vectors)).tolist()}


def _write(place: Path, values: Any) -> None:
    write_file(place.with_name(f"{place.name}.json"), json_bytes(values), what="the numbers of a figure")
