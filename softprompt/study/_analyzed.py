"""What analyses read of a store: what its runs recorded, and the prompts that were kept."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, UnknownName
from ..prompts.methods import Method
from ..settings import PromptSettings
from ._run import kept_prompt
from ._spec import OF_MODEL, RunSpec
from ._stored import StoredRun, load, stored_names

if TYPE_CHECKING:
    from ..analysis.analyses import Recorded

log = logging.getLogger("softprompt")


def is_store(path: "Path | str") -> bool:
    """Whether a folder is the store of a study, with a finished run at least."""
    return (Path(path) / "runs").is_dir() and bool(stored_names(Path(path)))


def recorded(store: "Path | str", prompts: Sequence[str] = ()) -> "list[Recorded]":
    """What the runs of a store recorded, for the analyses that need no prompt vectors.

    Args:
        store: its folder.
        prompts: labels of runs; empty takes all.

    Raises:
        DamagedFile: a stored run is not as it was written.
        UnknownName: no run has a given label.
    """
    from ..analysis.analyses import Recorded

    name = Path(store).resolve().name
    return [
        Recorded(
            label=f"{name}/{run.label}",
            task=run.spec.declared,
            settings=_settings(run.spec),
            score=run.score,
            **_curves(run),
        )
        for run in _chosen(Path(store), prompts)
    ]


def kept_prompts(store: "Path | str", prompts: Sequence[str] = ()) -> list[Path]:
    """The folders of the prompts that a store keeps.

    Args:
        store: its folder.
        prompts: labels of runs whose prompts must be there; empty takes all that are.

    Raises:
        BadInput: none is kept, or one that was asked for is not.
        DamagedFile: a stored run is not as it was written.
        UnknownName: no run has a given label.
    """
    found: list[Path] = []
    chosen = _chosen(Path(store), prompts)
    for run in chosen:
        try:
            found.append(kept_prompt(store, run))
        except BadInput:
            if prompts:
                raise
    if not found:
        raise BadInput(f"the store {store} keeps no prompts; run its study with --keep, in another --store")
    if missing := len(chosen) - len(found):
        log.warning("%d of %d runs of %s have no kept prompt and are left out", missing, len(chosen), store)
    return found


def _chosen(store: Path, prompts: Sequence[str]) -> list[StoredRun]:
    loaded = (load(store, name) for name in sorted(stored_names(store)))
    by_label = {run.label: run for run in loaded if run is not None}
    for prompt in prompts:
        if prompt not in by_label:
            raise UnknownName(f"run of {str(store)!r}", prompt, by_label)
    chosen = [by_label[prompt] for prompt in prompts] if prompts else by_label.values()
    # Methods stand together, in the order of their names.
    return sorted(chosen, key=lambda run: run.label)


def _settings(spec: RunSpec) -> dict[str, Any]:
    """The settings of a run under the names of a folder of training; further ones only where they were set."""
    from ..analysis.analyses import flat_settings

    plain = RunSpec(task=spec.task, model=spec.model)
    others = {name: getattr(spec, name) for name in ("style", *OF_MODEL) if getattr(spec, name) != getattr(plain, name)}
    others |= {f"backbone.{key}": value for key, value in spec.backbone.items()} | dict(spec.tags)
    of_run = {"task": spec.declared.name, "model": spec.model}
    return {**flat_settings(spec.settings, _resolved(spec), **of_run), **others}


def _resolved(spec: RunSpec) -> PromptSettings:
    """The prompt with the rate and the units of its method, where they do not depend on what it began as."""
    prompt = spec.named_prompt
    if prompt.lr is None and prompt.init == "auto":
        return prompt
    return Method.of(prompt).resolved(prompt)


def _curves(run: StoredRun) -> dict[str, Any]:
    taken = run.curve.get("step", ())
    columns = [taken, *(run.curve.get(name, [None] * len(taken)) for name in ("prompt_norm", "token_norms"))]
    points = [point for point in zip(*columns, strict=True) if point[1] is not None]
    steps, norms, token_norms = zip(*points, strict=True) if points else ((), (), ())
    evaluated = list(zip(run.validation.get("step", ()), run.validation.get("score", ()), strict=True))
    return {
        "steps": steps,
        "norms": norms,
        "token_norms": None if None in token_norms else token_norms,
        "evaluated": [step for step, score in evaluated if score is not None],
        "scores": [score for _, score in evaluated if score is not None],
    }
