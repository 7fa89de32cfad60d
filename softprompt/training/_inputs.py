"""What a run began from, so that it goes on with nothing else: its model, its rows, and prompts of other runs."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..backbones import AbstractBackbone, weights_digest
from ..errors import BadInput, ModelMismatch
from ..store import input_digest
from ._plan import Plan
from ._run_data import RunData

EMBEDDINGS, WEIGHTS, ROWS = "embeddings", "weights", "rows"


class OtherRows(BadInput):
    """Rows that are not those that a run was started with."""


def with_inputs(run_data: RunData) -> RunData:
    """The run, its plan with the digests of what it begins from: of model and rows, and of prompts by their paths.

    The user's files of rows have digests of their own: they tell runs apart whatever a prompt reads of the rows.

    Args:
        run_data: a new run, the paths in its plan as they are from any folder.
    """
    plan = run_data.plan
    prompts = _digests(path for prompt in plan.prompts for path in prompt.paths)
    inputs = {**model_digests(run_data.backbone), ROWS: run_data.fingerprint, **prompts}
    files = _digests(plan.task.source.every_path)
    return dataclasses.replace(run_data, plan=dataclasses.replace(plan, inputs=inputs, files=files))


def _digests(paths: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of what is at each path; without those at which nothing is."""
    return {path: digest for path in dict.fromkeys(paths) if (digest := input_digest(Path(path))) is not None}


def changed_files(plan: Plan, split: str) -> list[str]:
    """The user's files of a split that hold something else than when the run began; those that are gone are left out.

    Args:
        plan: of the run; one of an earlier version records no file.
        split: "train", "validation" or "test"; rows that were drawn from another split have no file.
    """
    source = plan.task.source
    paths = source.paths(split) if split in source.files else ()
    return [p for p in paths if p in plan.files and input_digest(Path(p)) not in (None, plan.files[p])]


def model_digests(backbone: AbstractBackbone) -> dict[str, str]:
    """What tells a frozen model from another one under its name: its word embeddings, and some of every weight."""
    embeddings = backbone.identity().embedding_sha256
    return {EMBEDDINGS: embeddings or "", WEIGHTS: weights_digest(backbone.model)}


def is_same_model(inputs: Mapping[str, str], backbone: AbstractBackbone) -> bool:
    """Whether a model has the digests that were written down; what is not known of either is not compared."""
    now = model_digests(backbone)
    return all(not now[name] or inputs.get(name) in (None, "", now[name]) for name in now)


def refuse_unknown_weights(inputs: Mapping[str, str], folder: Path) -> None:
    """Refuse a model at another place for a run that cannot tell whether it is the same.

    Raises:
        BadInput: with what to do.
    """
    if not inputs.get(WEIGHTS):
        raise BadInput(
            f"{folder} does not record the weights of its model, as runs of earlier versions do not; drop --model, and "
            "put the model back where it was"
        )


def refuse_other_weights(inputs: Mapping[str, str], backbone: AbstractBackbone, folder: Path) -> None:
    """Refuse to go on with another model than the one that a run was started with.

    Args:
        inputs: of `with_inputs`, or of `model_digests`; empty for what was begun by an earlier version.
        backbone: to go on with.
        folder: the run's.

    Raises:
        ModelMismatch: other word embeddings, or other weights.
    """
    if not is_same_model(inputs, backbone):
        raise ModelMismatch(
            f"the weights of {backbone.name!r} are not those that {folder} was started with; restore the model, or "
            "start a new run"
        )


def refuse_other_inputs(inputs: Mapping[str, str], rows: str, folder: Path) -> None:
    """Refuse to go on with other rows, initial vectors or source prompts. Prompts that are gone are accepted.

    Args:
        inputs: of `with_inputs`; empty for a run of an earlier version.
        rows: the fingerprint of the rows as they are now.
        folder: the run's.

    Raises:
        OtherRows: the rows differ.
        BadInput: names what else differs.
    """
    if inputs.get(ROWS, rows) != rows:
        raise OtherRows(f"the rows are not those that {folder} was started with; restore them, or start a new run")
    for path, digest in inputs.items():
        if path not in (EMBEDDINGS, WEIGHTS, ROWS) and input_digest(Path(path)) not in (None, digest):
            raise BadInput(f"{path} is not what {folder} was started with; restore it, or start a new run")
