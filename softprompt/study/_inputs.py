"""The user's files and models behind stored runs. A run with the same name but other contents is refused."""

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..documents import compact
from ..errors import BadInput
from ._spec import RunSpec
from ._stored import StoredRun


class OtherModel(BadInput):
    """A model that is not the one of its name that the store was made with."""


def digests(spec: RunSpec) -> dict[str, str]:
    """SHA-256 of each path that a run reads beside its model: the user's rows, initial vectors, and source prompts."""
    kind, _, argument = spec.prompt.init.partition(":")
    source = spec.declared.source
    paths = [Path(path) for split in source.files for path in source.paths(split)]
    if kind == "file":
        paths.append(Path(argument))
    paths += map(Path, (*spec.prompt.sources, *([argument] if kind == "prompt" else ())))
    return {str(path): digest for path in paths if (digest := _digest(path)) is not None}


def refuse_changed(runs: Iterable[StoredRun]) -> None:
    """Refuse to continue runs whose files have changed. Files that no longer exist are accepted.

    Raises:
        BadInput: names the file and a run.
    """
    today: dict[str, str | None] = {}
    for run in runs:
        for path, digest in run.inputs.items():
            if path not in today:
                today[path] = _digest(Path(path))
            if today[path] not in (None, digest):
                raise BadInput(
                    f"{path} is not what {run.spec.describe()} was trained with; restore it, or delete "
                    f"runs/{run.name}.json to train it again"
                )


def model_key(spec: RunSpec) -> str:
    """A key that is equal for runs of the same frozen model, loaded in the same way."""
    return compact(spec.frozen.to_json()).decode()


def refuse_other_model(spec: RunSpec, embeddings: str | None, runs: Iterable[StoredRun]) -> None:
    """Refuse a model whose word embeddings differ from those that stored runs with this model's name were trained with.

    Raises:
        OtherModel: names the model and a run.
    """
    for run in runs:
        if run.embeddings not in (None, embeddings) and model_key(run.spec) == model_key(spec):
            raise OtherModel(
                f"{spec.model!r} is not the model that {run.spec.describe()} was trained with; restore it, use another "
                "store, or delete the runs of the old one"
            )


def _digest(path: Path) -> str | None:
    """SHA-256 of a file, or of the manifest of a stored prompt; None where there is neither, as for one on the hub."""
    if path.is_dir():
        # A look at a store needs no torch.
        from ..store import MANIFEST, find_prompt

        with contextlib.suppress(BadInput):
            path = find_prompt(path) / MANIFEST
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
