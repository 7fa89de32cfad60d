"""The user's files and models behind stored runs. A run with the same name but other contents is refused."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from ..documents import compact, sha256_of
from ..errors import OtherInputs
from ._spec import RunSpec
from ._stored import StoredRun

# A run, or what it is called.
Read = TypeVar("Read")


def digests(spec: RunSpec) -> dict[str, str]:
    """SHA-256 of each path that a run reads beside its model: the user's rows, initial vectors, and source prompts."""
    paths = map(Path, (*spec.declared.source.every_path, *spec.prompt.paths))
    return {str(path): digest for path in paths if (digest := _digest(path)) is not None}


def refuse_changed(runs: Iterable[StoredRun]) -> None:
    """Refuse to continue runs whose files have changed. Files that no longer exist are accepted.

    Raises:
        OtherInputs: names the file and a run.
    """
    today: dict[str, str | None] = {}
    for run in runs:
        if path := _changed(run.inputs, today):
            raise OtherInputs(
                f"{path} is not what {run.spec.describe()} was trained with; restore it, or delete "
                f"runs/{run.name}.json to train it again"
            )


def mixed(runs: Iterable[StoredRun]) -> str | None:
    """One line on a file that had other contents for one of these runs than for another; None where none had."""
    if (found := other_contents((run, run.inputs) for run in runs)) is None:
        return None
    path, run, other = found
    return (
        f"{path} had other contents for {run.spec.describe()} than for {other.spec.describe()}; delete "
        f"runs/{run.name}.json or runs/{other.name}.json to train it again"
    )


def other_contents(inputs: Iterable[tuple[Read, Mapping[str, str]]]) -> tuple[str, Read, Read] | None:
    """The first path that held something else for one run than for one before it, and the two; None where none did.

    Args:
        inputs: each run with the digests of what it read.
    """
    first: dict[str, tuple[Read, str]] = {}
    for run, of_run in inputs:
        for path, digest in of_run.items():
            other, before = first.setdefault(path, (run, digest))
            if digest != before:
                return path, run, other
    return None


def refuse_mixed(runs: Iterable[StoredRun]) -> None:
    """Refuse to judge runs together that found other contents in one file, whatever is in it today.

    Raises:
        OtherInputs: names the file and two runs.
    """
    if line := mixed(runs):
        raise OtherInputs(line)


def refuse_changed_since(begun: Mapping[str, Mapping[str, str]], folder: Path) -> None:
    """Refuse to go on with a fleet whose files have changed since it was begun.

    Args:
        begun: `digests` of each run then.
        folder: of the fleet.

    Raises:
        OtherInputs: names the file.
    """
    today: dict[str, str | None] = {}
    for inputs in begun.values():
        if path := _changed(inputs, today):
            raise OtherInputs(
                f"{path} is not what the runs in {folder} were begun with; restore it, or delete {folder} to train "
                "them anew"
            )


def _changed(inputs: Mapping[str, str], today: dict[str, str | None]) -> str | None:
    """The first path that is there and has another digest, if any; `today` holds the digests that are known."""
    for path, digest in inputs.items():
        if path not in today:
            today[path] = _digest(Path(path))
        if today[path] not in (None, digest):
            return path
    return None


def model_key(spec: RunSpec) -> str:
    """A key that is equal for runs of the same frozen model, loaded in the same way."""
    return compact(spec.frozen.to_json()).decode()


def refuse_other_model(spec: RunSpec, embeddings: str | None, runs: Iterable[StoredRun]) -> None:
    """Refuse a model whose word embeddings differ from those that stored runs with this model's name were trained with.

    Raises:
        OtherInputs: names the model and a run.
    """
    for run in runs:
        if run.embeddings not in (None, embeddings) and model_key(run.spec) == model_key(spec):
            raise OtherInputs(
                f"{spec.model!r} is not the model that {run.spec.describe()} was trained with; restore it, use another "
                "store, or delete the runs of the old one"
            )


def _digest(path: Path) -> str | None:
    """SHA-256 of a file, or of the manifest of a stored prompt; None where there is neither, as for one on the hub."""
    if not path.is_dir():
        return sha256_of(path) if path.is_file() else None
    # A look at a store needs no torch.
    from ..store import input_digest

    return input_digest(path)
