"""The work of one process on a store: it claims a fleet, trains it and stores its runs, until no run is left."""

import dataclasses
import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, final

from ..documents import SEALED, read_sealed, sealed_bytes
from ..errors import BadInput, DamagedFile, Interrupted, ModelMismatch, OtherInputs, StorageFailure
from ..run_layout import METRICS
from ..settings import ModelSpec
from ._early import named
from ._failed import mark_failed, reason
from ._fleets import Claim, Fleet, alone, claim, finish, give_up
from ._inputs import digests, refuse_changed_since, refuse_other_model
from ._lease import SECONDS
from ._spec import RunSpec
from ._stored import StoredRun, curves, load, path_of, stored_names, to_bytes

if TYPE_CHECKING:
    from ..backbones import AbstractBackbone
    from ..training import Result, Run

log = logging.getLogger("softprompt")

# Errors that say nothing of one run: they would meet every other run too, or the user has to act first.
STOPS = (StorageFailure, DamagedFile, OtherInputs)
# A fleet that so many processes in a row did not survive is not tried again.
MOST_DEATHS = 3
# What the runs of a fleet began from.
INPUTS = "inputs.json"
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
    wait: bool = True,
    lease_seconds: float = SECONDS,
    show: Callable[[Claim], None] = lambda claimed: None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Claim and train fleets until every run of the groups is stored or has failed, by this process or others.

    The runs of a fleet that fails are trained again alone, so that only those that fail by themselves are marked.

    Args:
        store: the folder of the store.
        groups: of `group`.
        data_root: as in `run_all`.
        device: as in `run_all`.
        keep: as in `run_all`.
        wait: as in `run_all`.
        lease_seconds: as in `run_all`.
        show: sees each claim before it is trained.
        is_wanted: asked between fleets.
    """
    models = Models(store, device)
    groups = list(groups)
    while is_wanted():
        claimed = claim(store, groups, keep=keep, lease_seconds=lease_seconds)
        show(claimed)
        if claimed.fleet is not None:
            if not _attempt(store, claimed.fleet, models, data_root):
                groups = [(spec,) for spec in claimed.fleet.specs] + groups
        elif claimed.busy and wait:
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _attempt(store: Path, fleet: Fleet, models: "Models", data_root: "Path | str | None") -> bool:
    """Train a fleet and store its runs; whether that is settled, by a result or a failure of its only run.

    Raises:
        SoftPromptError: what every other run would meet too, or what the user has to put right first.
    """
    try:
        with fleet.lease.renewed(), named(fleet.specs):
            _refuse_deadly(fleet)
            _train(store, fleet, models, data_root)
        finish(store, fleet)
    except BaseException as error:
        stops = not isinstance(error, Exception) or isinstance(error, (Interrupted, *STOPS))
        # A store that is gone is not the loss of a lease.
        is_lost = store.is_dir() and not fleet.lease.is_ours
        give_up(store, fleet, can_resume=stops)
        if is_lost and isinstance(error, Exception) and not isinstance(error, Interrupted):
            log.warning("%s", fleet.lease.loss)
            return True
        if stops:
            raise
        return _is_marked(store, fleet, error)
    return True


def _is_marked(store: Path, fleet: Fleet, error: BaseException) -> bool:
    """Keep the failure of a run that was trained alone; of several it is not known whose it is."""
    if len(fleet.specs) > 1:
        log.warning("%d runs failed together and are trained alone: %s", len(fleet.specs), reason(error))
        return False
    for spec in fleet.specs:
        log.warning("%s (traceback in %s)", reason(error), mark_failed(store, spec, error))
    return True


def _refuse_deadly(fleet: Fleet) -> None:
    """Refuse a fleet whose processes die one after the other.

    Raises:
        BadInput: with how often.
    """
    if fleet.lease.deaths >= MOST_DEATHS:
        raise BadInput(
            f"{fleet.lease.deaths} processes in a row died or stood still before they had saved a step, as when "
            "memory runs out; give a smaller --fleet-size or smaller batches, then --retry-failed"
        )


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
        # Names of tasks whose words are warned of.
        self.warned: set[str] = set()

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


def _train(store: Path, fleet: Fleet, models: Models, data_root: "Path | str | None") -> None:
    """Train or resume a fleet, and store its runs."""
    from ..store import write_file
    from ..training import share_of, train, without_advice

    first = fleet.specs[0]
    inputs = _inputs(fleet)
    backbone = models.of(first)
    embeddings = backbone.identity().embedding_sha256
    _warn_of_words(first, backbone.kind, models.warned)
    with without_advice():
        if fleet.is_started:
            run = _resumed(fleet, backbone)
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
    finished = [
        _stored(spec, run, result, together, embeddings, inputs[spec.name], share_of(result, run.results))
        for spec, result in zip(fleet.specs, run.results, strict=True)
    ]
    # Under the lock nobody else can take over between the look at the lease and the last file.
    with alone(store):
        fleet.lease.refuse_lost()
        for stored in finished:
            write_file(path_of(store, stored.name), to_bytes(stored), what=stored.spec.describe(), replace=True)


def _resumed(fleet: Fleet, backbone: "AbstractBackbone") -> "Run":
    """Go on with the run of a fleet.

    Raises:
        OtherInputs: model or rows are not those that the run was started with, as they are not for the other runs
            either.
    """
    from ..training import OtherRows, resume

    try:
        return resume(fleet.run, model=backbone)
    except ModelMismatch as error:
        raise OtherInputs(error.message) from error
    except OtherRows as error:
        raise OtherInputs(
            f"the rows are not those that the runs in {fleet.folder} were begun with; restore them, or delete "
            f"{fleet.folder} to train them anew"
        ) from error


def _inputs(fleet: Fleet) -> dict[str, dict[str, str]]:
    """What each run of a fleet began from: written when it is begun, and read where it goes on.

    Raises:
        OtherInputs: it goes on, and a file has changed.
    """
    from ..store import write_file

    place = fleet.folder / INPUTS
    if fleet.is_started and place.is_file():
        begun = read_sealed(place, repair=f"delete {fleet.folder} and run again")["inputs"]
        refuse_changed_since(begun, fleet.folder)
        return begun
    inputs = {spec.name: digests(spec) for spec in fleet.specs}
    values = {"format": SEALED, "inputs": inputs}
    write_file(place, sealed_bytes(values), what="what a fleet begins from", replace=True)
    return inputs


def style_of(spec: RunSpec, kind: str) -> str | None:
    """The style of a run; one without a style on a decoder is in words, as its name has meant from the beginning."""
    if spec.style is None and kind == "decoder" and spec.declared.style == "words":
        return "words"
    return spec.style


def _warn_of_words(spec: RunSpec, kind: str, warned: set[str]) -> None:
    """Warn once of a user's rows that a decoder reads in other words than in `train`, which numbers would not show."""
    from ..tasks import in_lines

    task = spec.declared
    shown = in_lines(task)
    if style_of(spec, kind) != "words" or shown == task or task.name in warned:
        return
    warned.add(task.name)
    log.warning(
        "%s: a study has a decoder read %r, train has it read %r; write template = ... into the task for both",
        task.name, task.template, shown.template,
    )  # fmt: skip


def _all_stored(store: Path) -> Iterator[StoredRun]:
    for name in sorted(stored_names(store)):
        run = load(store, name, whole=False)
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

    curve, validation = curves(read_record(run.folder / result.prompt / METRICS))
    return StoredRun.of(
        spec,
        result,
        seconds=round(seconds, 3),
        curve=curve,
        validation=validation,
        fleet=fleet,
        embeddings=embeddings,
        inputs=inputs,
        versions={name: version(name) for name in ("softprompt", "torch", "transformers")},
    )
