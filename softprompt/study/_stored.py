"""Finished runs on disk: one file with a checksum for each, which holds everything that a later analysis needs."""

import bisect
import dataclasses
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..documents import check_shape, compact, faults_in, in_file, read_sealed, without_nan
from ..errors import BadInput, DamagedFile
from ..legacy import renamed
from ..status import is_dropped
from ._spec import RunSpec

if TYPE_CHECKING:
    from ..training import Result

FORMAT = 2
# Format 1 has the earlier names of fields.
READ = (1, 2)
# Largest number of points of a curve. A longer run keeps every k-th step.
POINTS = 300
REPAIR = "delete it and run the study again"
_NO_CURVE = ("step", "lr")
# The file of a stored run. What else lies beside them is none of a study's.
_FILE = re.compile(r"[0-9a-f]{16}\.json")
# What a stored run takes from a result as it is.
_OF_RESULT = (
    "metrics", "majority", "best_step", "trainable", "head", "stored", "status", "warnings", "prompt_steps", "restarts",
)  # fmt: skip
# What tables show of the curves.
_OF_TABLES = ("step", "token_norms")


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """The results of a run, and its curves.

    Args:
        name: that of its spec when it was run.
        spec: what was asked for.
        metrics: by split, of the best checkpoint on validation; empty where the run was dropped before any.
        majority: test score of always answering the most frequent class, or the mean where an error is the score; None
            where there is neither.
        best_step: optimiser step of that checkpoint.
        trainable: trained parameters of prompt and reparameterisation.
        head: numbers of a linear head.
        stored: numbers stored for the prompt.
        seconds: the run's share of its fleet's wall time, by prompt steps.
        status: "finished", "stopped early ..." or "dropped ...".
        warnings: what a user should look at.
        curve: by quantity ("loss", "prompt_norm", ...) one value a kept step, and those steps as "step".
        validation: "step" and "score" of each evaluation.
        fleet: names of the runs that shared its passes, itself among them.
        embeddings: SHA-256 of the frozen model's word embeddings.
        inputs: SHA-256 of each file of the user that the run read, by path.
        versions: of softprompt, torch and transformers.
        prompt_steps: optimiser steps taken, those of restarts that were not chosen among them; what the run cost.
        restarts: how the initialisation was chosen; None without restarts.
    """

    name: str
    spec: RunSpec
    metrics: Mapping[str, Mapping[str, int | float | None]]
    majority: float | None
    best_step: int
    trainable: int
    head: int
    stored: int
    seconds: float
    status: str
    warnings: tuple[str, ...] = ()
    curve: Mapping[str, Sequence[int | float | None]] = field(default_factory=dict)
    validation: Mapping[str, Sequence[int | float | None]] = field(default_factory=dict)
    fleet: tuple[str, ...] = ()
    embeddings: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    prompt_steps: int | None = None
    restarts: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, spec: RunSpec, result: "Result", **of_run: Any) -> "StoredRun":
        """The run of a prompt that has ended.

        Args:
            spec: what was asked for.
            result: how it ended.
            of_run: the fields that a result does not have.
        """
        return cls(name=spec.name, spec=spec, **{name: getattr(result, name) for name in _OF_RESULT}, **of_run)

    @classmethod
    def without_result(
        cls,
        spec: RunSpec,
        metrics: Mapping[str, Mapping[str, float]],
        status: str,
        *,
        majority: float | None = None,
        **known: Any,
    ) -> "StoredRun":
        """A run of which only some scores are known, with 0 for what a result counts.

        Args:
            spec: what was asked for.
            metrics: by split; empty for none.
            status: of the run.
            majority: as in the class.
            known: other fields.
        """
        counts: dict[str, Any] = dict.fromkeys(("best_step", "trainable", "head", "stored", "seconds"), 0)
        return cls(name=spec.name, spec=spec, metrics=metrics, majority=majority, status=status, **counts, **known)

    @property
    def label(self) -> str:
        """What the run is called beside others of its store: its method, its seed and how its name begins."""
        return f"{self.spec.prompt.method}-seed{self.spec.prompt.seeds.initialization}-{self.name[:6]}"

    @property
    def score(self) -> float | None:
        """The test score of the best prompt; None where there is none."""
        return self.metrics.get("test", {}).get("score")

    @property
    def validation_score(self) -> float | None:
        """The validation score by which that prompt was chosen."""
        return self.metrics.get("validation", {}).get("score")

    @property
    def is_dropped(self) -> bool:
        """Whether training ended because a number was not finite."""
        return is_dropped(self.status)

    def at_best(self, quantity: str) -> float | None:
        """A quantity of the curve at the last kept step that is not after the best checkpoint; None if not recorded."""
        if quantity not in self.curve:
            return None
        pairs = zip(self.curve["step"], self.curve[quantity], strict=True)
        reached = [value for step, value in pairs if step is not None and step <= self.best_step]
        return reached[-1] if reached else None


def path_of(folder: Path, name: str) -> Path:
    """Where the run of this name is stored."""
    return folder / "runs" / f"{name}.json"


def stored_names(folder: Path) -> set[str]:
    """Names of all stored runs, by one look at the folder.

    Raises:
        BadInput: the store is no folder.
    """
    try:
        return {path.name[: -len(".json")] for path in os.scandir(folder / "runs") if _FILE.fullmatch(path.name)}
    except FileNotFoundError:
        return set()
    except NotADirectoryError as error:
        raise _no_store(folder) from error


def _no_store(folder: Path) -> BadInput:
    return BadInput(f"{folder} is no folder; give --store a folder, which is made if it is not there")


def to_bytes(run: StoredRun) -> bytes:
    """The file of a run: its values under a checksum."""
    values = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    values = {"format": FORMAT, **values, "spec": run.spec.to_json()}
    content = compact(without_nan(values))
    return b'{"run":' + content + b',"sha256":"' + hashlib.sha256(content).hexdigest().encode() + b'"}\n'


def load(folder: Path, name: str, *, whole: bool = True, spec: RunSpec | None = None) -> StoredRun | None:
    """The run of this name, or None if it is not stored.

    Args:
        folder: of the store.
        name: of the run.
        whole: with its curves; else only with its token norms at the best checkpoint, which tables need.
        spec: of the run, where it is at hand and `whole` is not asked for: it is then not read from the file.

    Raises:
        DamagedFile: the file is not what was written.
        BadInput: it cannot be read, or is of another version.
    """
    path = path_of(folder, name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise _no_store(folder) from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}; check its permissions") from error
    values = _verified(content, whole, spec is not None)
    if values is None or values.get("name") != name:
        raise DamagedFile(f"{path} is not as it was written; {REPAIR}")
    if values.get("format") not in READ:
        raise BadInput(
            f"{path} is of format {values.get('format')!r}, this softprompt reads {READ[0]} to {READ[-1]}; upgrade "
            "it, or name another store"
        )
    is_of_today = values["format"] == FORMAT
    today = values if is_of_today else renamed(values)
    plain = {key: value for key, value in today.items() if key != "format"}
    has_spec = spec is not None and not whole
    with in_file(path):
        check_shape(StoredRun, {**plain, "spec": {}} if has_spec else plain, spec=Mapping[str, Any])
        try:
            requested = spec if has_spec else RunSpec.from_json(values["spec"], is_of_today=is_of_today)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise DamagedFile(f"its settings cannot be read; {REPAIR}") from error
        if any(len(set(map(len, plain.get(name, {}).values()))) > 1 for name in ("curve", "validation")):
            raise DamagedFile(f"its curves have points at other steps; {REPAIR}")
    plain |= {"spec": requested}
    plain |= {key: tuple(plain.get(key, ())) for key in ("warnings", "fleet")}
    return StoredRun(**plain)


def _verified(content: bytes, whole: bool, has_spec: bool) -> dict[str, Any] | None:
    """The values of a run's file, or None if they are not those that were written."""
    written, _, digest = content.removesuffix(b'"}\n').rpartition(b',"sha256":"')
    try:
        if hashlib.sha256(written.removeprefix(b'{"run":')).hexdigest().encode() != digest:
            return None
        return json.loads(content)["run"] if whole else _without_curves(content, has_spec)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None


def _without_curves(content: bytes, has_spec: bool) -> dict[str, Any]:
    """The values of a run's file with what tables need of its curves: one point, the one at the best checkpoint.

    The curves are most of the file, and are cut out before the rest is parsed: the file is one line with sorted names.
    So is the spec where the caller has it. Its end is searched from the end of the file, because a tag may be named
    "status", and nothing that follows the spec can be.
    """
    before, _, rest = content.partition(b'"curve":{')
    texts, _, after = rest.partition(b'},"embeddings":')
    if has_spec:
        until, _, rest = after.partition(b',"spec":{')
        after = until + b',"status":"' + rest.rpartition(b'},"status":"')[2]
    values = json.loads(before + b'"curve":{},"embeddings":' + after)["run"]
    points = {name: _numbers_of(texts, name) for name in _OF_TABLES}
    place = _last_until(points["step"], values["best_step"])
    if place >= 0:
        kept = [
            b'"%b":[%b]' % (name.encode(), text.split(b",", place + 1)[place]) for name, text in points.items() if text
        ]
        values["curve"] = json.loads(b"{%b}" % b",".join(kept))
    return values


def _numbers_of(texts: bytes, quantity: str) -> bytes:
    """The numbers of a quantity in the text of the curves; empty where it is not recorded."""
    return texts.partition(b'"%b":[' % quantity.encode())[2].partition(b"]")[0]


@functools.lru_cache
def _last_until(steps: bytes, last: int) -> int:
    """The place of the last of these steps that is not after another; -1 without any. Most runs have the same steps."""
    return bisect.bisect_right(steps.split(b","), last, key=int) - 1 if steps else -1


def damaged_runs(folder: Path) -> Iterator[str]:
    """One line for each stored run, plan of a fleet, baseline, or file of a kept run that is not as it was written."""
    from ..training import damage

    for name in sorted(stored_names(folder)):
        yield from faults_in(lambda name=name: load(folder, name))
    for path in sorted(folder.glob("fleets/*/fleet.json")):
        repair = f"delete {path.parent} and run again"
        yield from faults_in(lambda path=path, repair=repair: read_sealed(path, earlier_names=["names"], repair=repair))
    for path in sorted(folder.glob("baselines/*.json")):
        yield from faults_in(lambda path=path: read_sealed(path, earlier_names=["model"]))
    for path in sorted(folder.glob("fleets/*/*/run.json")):
        yield from damage(path.parent)


def curves(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The curve and the evaluations in the rows of a prompt's metrics.jsonl.

    Of a run of more than 300 steps every k-th step is kept, and the last; the loss is then the mean over the
    steps since the one kept before, everything else the value at the step. Six digits are kept.
    """
    steps, evaluations = [], []
    for row in rows:
        if "loss" in row:
            steps.append(row)
        elif row.get("split") == "validation":
            evaluations.append(row)
    every = math.ceil(len(steps) / POINTS)
    curve: dict[str, list[Any]] = {name: [] for name in (steps[0] if steps else ()) if name not in _NO_CURVE}
    kept = {"step": [], **curve}
    for start in range(0, len(steps), max(1, every)):
        window = steps[start : start + every]
        last = window[-1]
        kept["step"].append(last["step"])
        for name in curve:
            value = sum(row["loss"] for row in window) / len(window) if name == "loss" else last.get(name)
            kept[name].append(_rounded(value))
    scores = {name: [row[name] for row in evaluations] for name in ("step", "score")}
    return kept, scores


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
