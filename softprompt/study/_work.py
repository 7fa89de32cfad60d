"""The work of one process on a store: it claims a fleet, trains it and stores its runs, until no run is left."""

import contextlib
import dataclasses
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, final

from ..settings import ModelSpec
from ._early import named
from ._fleets import Claim, Fleet, claim, finish, give_up
from ._inputs import digests, refuse_other_model
from ._spec import RunSpec
from ._stored import StoredRun, curves, load, path_of, to_bytes

if TYPE_CHECKING:
    from ..backbones import AbstractBackbone
    from ..training import Result, Run

# Number of loaded models that a process keeps. Studies use their models one after the other.
MODELS = 2
# Seconds between two checks of the runs that other processes hold.
PAUSE_SECONDS = 0.5


def work(
    store: Path,
    groups: Sequence[tuple[RunSpec, ...]],
    *,
    data_root: "Path | str | None",
    device: str,
    keep: bool,
    show: Callable[[Claim], None] = lambda claimed: None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Claim and train fleets until every run of the groups is stored, by this process or others.

    Args:
        store: the folder of the store.
        groups: of `group`.
        data_root: as in `run_all`.
        device: as in `run_all`.
        keep: as in `run_all`.
        show: sees each claim before it is trained.
        is_wanted: asked between fleets.
    """
    models = Models(store, device)
    while is_wanted():
        claimed = claim(store, groups, keep=keep)
        show(claimed)
        if claimed.fleet is not None:
            with _released(store, claimed.fleet), named(claimed.fleet.specs):
                _train(store, claimed.fleet, models, data_root)
        elif claimed.busy:
            time.sleep(PAUSE_SECONDS)
        else:
            return


@final
class Models:
    """The frozen models that this process loaded last.

    Args:
        store: whose runs say what a model of a name was.
        device: as in `run_all`.
    """

    def __init__(self, store: Path, device: str):
        self.store, self.device = store, device
        self.loaded: OrderedDict[ModelSpec, AbstractBackbone] = OrderedDict()

    def of(self, spec: RunSpec) -> "AbstractBackbone":
        """The model that a run is trained on.

        Raises:
            BadInput: stored runs were trained on another model of this name.
        """
        from ..backbones import answering_numbers, load_backbone

        wanted = dataclasses.replace(spec.frozen, device=self.device)
        if spec.declared.answer == "number":
            wanted = answering_numbers(wanted)
        if wanted not in self.loaded:
            while len(self.loaded) >= MODELS:
                self.loaded.popitem(last=False)
            backbone = load_backbone(wanted)
            refuse_other_model(spec, backbone.identity().embedding_sha256, _all_stored(self.store))
            self.loaded[wanted] = backbone
        self.loaded.move_to_end(wanted)
        return self.loaded[wanted]


@contextlib.contextmanager
def _released(store: Path, fleet: Fleet) -> Iterator[None]:
    """Release the fleet after the `with` block. Its folder stays unless it was trained to its end."""
    try:
        yield
    except BaseException:
        give_up(store, fleet)
        raise
    finish(store, fleet)


def _train(store: Path, fleet: Fleet, models: Models, data_root: "Path | str | None") -> None:
    """Train or resume a fleet, and store its runs."""
    from ..store import write_file
    from ..training import resume, train, without_advice

    first = fleet.specs[0]
    inputs = {spec.name: digests(spec) for spec in fleet.specs}
    backbone = models.of(first)
    embeddings = backbone.identity().embedding_sha256
    # A fleet before this one may have set this differently on the same model.
    backbone.gradient_checkpointing(first.settings.gradient_checkpointing)
    with without_advice():
        if fleet.is_started:
            run = resume(fleet.run, model=backbone)
        else:
            shutil.rmtree(fleet.run, ignore_errors=True)
            run = train(
                first.declared,
                backbone,
                prompts=[spec.prompt for spec in fleet.specs],
                settings=first.settings,
                output=fleet.run,
                data_root=data_root,
                style=style_of(first, backbone.kind),
                max_bad_rows=first.max_bad_rows,
            )
    together = tuple(spec.name for spec in fleet.specs)
    for spec, result in zip(fleet.specs, run.results, strict=True):
        stored = _stored(spec, run, result, together, embeddings, inputs[spec.name], _share(result, run))
        write_file(path_of(store, spec.name), to_bytes(stored), what=spec.describe(), replace=True)


def style_of(spec: RunSpec, kind: str) -> str | None:
    """The style of a run; one without a style on a decoder is in words, as its name has meant from the beginning."""
    if spec.style is None and kind == "decoder" and spec.declared.style == "words":
        return "words"
    return spec.style


def _all_stored(store: Path) -> Iterator[StoredRun]:
    for path in sorted((store / "runs").glob("*.json")):
        run = load(store, path.stem)
        if run:
            yield run


def _stored(
    spec: RunSpec,
    run: "Run",
    result: "Result",
    fleet: tuple[str, ...],
    embeddings: str | None,
    inputs: dict[str, str],
    seconds: float,
) -> StoredRun:
    """The run in the form that is stored."""
    from ..training import read_record

    curve, validation = curves(read_record(run.folder / result.prompt / "metrics.jsonl"))
    return StoredRun(
        name=spec.name,
        spec=spec,
        metrics=result.metrics,
        majority=result.to_json().get("majority"),
        best_step=result.best_step,
        trainable=result.trainable,
        head=result.head,
        stored=result.stored,
        seconds=round(seconds, 3),
        status=result.status,
        warnings=result.warnings,
        curve=curve,
        validation=validation,
        fleet=fleet,
        embeddings=embeddings,
        inputs=inputs,
        versions={name: version(name) for name in ("softprompt", "torch", "transformers")},
        prompt_steps=result.prompt_steps,
        restarts=result.restarts,
    )


def _share(result: "Result", run: "Run") -> float:
    """The share of a fleet's wall time that one of its runs took, in proportion to its steps."""
    steps = [stored.prompt_steps or 0 for stored in run.results]
    return result.seconds * ((result.prompt_steps or 0) / sum(steps) if sum(steps) else 1 / len(steps))
