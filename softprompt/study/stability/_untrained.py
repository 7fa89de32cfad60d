"""What the frozen model does without training, on the test rows of a report: once for a store, and kept there."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._inputs import model_key
from .._spec import DIGITS, RunSpec
from .._stored import StoredRun
from .._texts import canonical
from .._work import Models, style_of
from ._spread import Spread

if TYPE_CHECKING:
    from ...inference.frozen import Baseline

log = logging.getLogger("softprompt")

# Settings of a run that change how the frozen model answers.
_ANSWERING = ("loss", "normalize", "decode", "max_new_tokens", "max_length", "test_rows")
# The same, where its scores are calibrated as those of the prompts are.
_CALIBRATING = ("calibrate", "eval_rows")


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """A score without training.

    Args:
        name: "majority", "frozen", "instruction" or "4 examples".
        draw: of the examples; None where there are none.
        score: on the test rows.
        low: end of the 95 % interval over rows; None where there is none.
        high: the other end.
    """

    name: str
    draw: int | None
    score: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, line: "Baseline") -> "Untrained":
        """What a report shows of a baseline."""
        low, high = line.interval or (None, None)
        return cls(name=line.name, draw=line.draw, score=line.score, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much better a setting is than what was not trained, on the same test rows.

    Args:
        setting: its name.
        reference: what it is compared with, "instruction" or "frozen", "majority" under a linear head.
        difference: mean of the seeds minus the score of the reference; None without a score.
        low: end of its 95 % interval over seeds.
        high: the other end.
    """

    setting: str
    reference: str
    difference: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, spread: Spread, reference: Untrained) -> "Gain":
        """That of a setting: the reference is one number, so that only the seeds vary."""
        ends = (None if end is None else end - reference.score for end in (spread.mean, spread.low, spread.high))
        difference, low, high = ends
        return cls(setting=spread.setting, reference=reference.name, difference=difference, low=low, high=high)


def gains(spreads: Sequence[Spread], untrained: Sequence[Untrained]) -> tuple[Gain, ...]:
    """Each setting against the strongest of what was not trained; none where there is nothing."""
    from ...inference.frozen import reference_among

    if not untrained:
        return ()
    reference = untrained[reference_among([line.name for line in untrained])]
    return tuple(Gain.of(spread, reference) for spread in spreads)


def untrained(
    specs: Sequence[RunSpec],
    run: StoredRun,
    store: Path,
    *,
    data_root: "Path | str | None" = None,
    device: str = "auto",
) -> tuple[Untrained, ...]:
    """What the frozen model of these runs does, answering as the first run does; nothing for a task without labels.

    Args:
        specs: the runs of a report.
        run: the first of them, as it is stored.
        store: its store, which keeps the answers.
        data_root: folder with rows; None asks the hub.
        device: "auto", "cpu", "cuda" ...

    Raises:
        SoftPromptError: the rows or the model cannot be read, or are not those of the runs.
    """
    from ...inference.kept_baselines import kept_baselines

    spec = specs[0]
    if spec.declared.answer != "label":
        return ()
    if len({model_key(each) for each in specs}) > 1:
        log.warning(
            "the settings are of several models, so no scores without training are shown; see `softprompt frozen`"
        )
        return ()
    about = _about(spec, run)
    path = store / "baselines" / f"{hashlib.sha256(canonical(about)).hexdigest()[:DIGITS]}.json"
    lines = kept_baselines(path, about, lambda: _computed(spec, Models(store, device), data_root))
    return tuple(map(Untrained.of, lines))


def _about(spec: RunSpec, run: StoredRun) -> dict[str, Any]:
    """What changes the answers of the frozen model, by the names under which a run is stored."""
    numbers = spec.numbers()
    named = (*_ANSWERING, *(_CALIBRATING if spec.settings.calibrate else ()))
    settings = {name: value for name, value in numbers["settings"].items() if name in named}
    others = {name: value for name, value in numbers.items() if name not in ("lane", "settings", "format")}
    # "format" is the file's own.
    others["numbers"] = numbers["format"]
    return {**others, "settings": settings, "embeddings": run.embeddings, "inputs": dict(run.inputs)}


def _computed(spec: RunSpec, models: Models, data_root: "Path | str | None") -> "list[Baseline]":
    from ...data import load_rows, split_rows
    from ...inference.asked import worded_for
    from ...inference.frozen import baselines

    backbone = models.of(spec)
    task = worded_for(spec.declared, backbone.kind, style_of(spec, backbone.kind))
    if spec.settings.max_length is not None:
        task = dataclasses.replace(task, max_length=spec.settings.max_length)
    splits = split_rows(task, load_rows(task, data_root, spec.max_bad_rows), test_rows=spec.settings.test_rows)
    validation = splits.validation.select(range(len(splits.validation))[: spec.settings.eval_rows])
    return baselines(
        backbone,
        task,
        splits.test,
        splits.train,
        settings=spec.settings,
        validation=validation if spec.settings.calibrate else None,
    )
