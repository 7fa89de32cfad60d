"""Where the rows of a task come from: the hub, a folder, the user's files or memory, or the lab."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..documents import NOT_STORED, check_shape
from ..errors import UnknownName
from ._later import tupled, without_later
from ._memory import MemoryRows

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from: a set on the hub, the same as a folder below the data root, the user's files, or the lab.

    Args:
        hub: repository on the hub, empty for files.
        config: its configuration.
        revision: branch or commit on the hub.
        folder: path below the data root, laid out as `<folder>/<split>.jsonl.gz`.
        train: name of the training split.
        validation: name of the validation split ("validation_matched" for MNLI); empty where there is none.
        test: name of a test split with answers, or its path from the folder; empty where there is none.
        layout: name in LAYOUTS, how records of a file become rows.
        where: column -> value; the hub's other rows are left out.
        grouped: a column whose rows of one value stay in one split where a split is drawn.
        files: split -> path, or several, for the user's own data.
        delimiter: what separates the fields of their CSV or TSV; empty is what the file's name says.
        memory: split -> rows that the user's program gave.
        beside: split -> the same files as seen from the folder of the run that this is stored in.
        drawn: column -> fingerprint of the rows that the test rows of a run were drawn from; empty where none were.
        world: family of the lab's rows, which are made when they are needed; empty for all others.
        options: what that family needs, and how many rows, and how hard.
        blanks: whether their texts may be empty, as those of published sets may (QQP has a few).
        is_foreign: whether a prompt from elsewhere names the files, which are then read only after `allowed`.
    """

    hub: str = ""
    config: str | None = None
    revision: str | None = None
    folder: str = ""
    train: str = "train"
    validation: str = "validation"
    test: str = ""
    layout: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    grouped: str = ""
    files: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    delimiter: str = ""
    memory: Mapping[str, MemoryRows] = field(default_factory=dict)
    # Not compared: two runs on one file may be in folders of different depth.
    beside: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, compare=False)
    drawn: Mapping[str, str] = field(default_factory=dict, compare=False)
    world: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    blanks: bool = False
    # Never stored: a file cannot say of itself that it is trusted.
    is_foreign: bool = field(default=False, compare=False, metadata=NOT_STORED)

    def paths(self, split: str) -> tuple[str, ...]:
        """The files of a split, in the order in which they are read."""
        given = self.files[split]
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def every_path(self) -> tuple[str, ...]:
        """The files of all splits."""
        return tuple(path for split in self.files for path in self.paths(split))

    @property
    def allows_blanks(self) -> bool:
        """Whether a text may be empty: in published sets, and in copies of them."""
        return self.blanks or not self.is_own

    @property
    def is_own(self) -> bool:
        """Whether the rows are the user's own."""
        return bool(self.files or self.memory)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the user's own rows, those to train on first."""
        return tuple(split for split in SPLITS if split in self.files or split in self.memory)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without later fields that say nothing new."""
        values = dataclasses.asdict(self)
        values["memory"] = {split: rows.to_json() for split, rows in self.memory.items()}
        del values["is_foreign"]
        return without_later(self, values)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Source":
        """The source that `to_json` wrote.

        Raises:
            UnknownName: a setting that does not exist.
            BadInput: a value of another kind.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"is_foreign"}
        for name in values:
            if name not in known:
                raise UnknownName("setting of a task's source", name, known)
        check_shape(cls, values, memory=Mapping[str, Mapping[str, int | str]])
        plain: dict[str, Any] = {
            name: tupled(value) if isinstance(value, Mapping) else value for name, value in values.items()
        }
        plain["memory"] = {split: MemoryRows.from_json(rows) for split, rows in plain.get("memory", {}).items()}
        return cls(**plain)
