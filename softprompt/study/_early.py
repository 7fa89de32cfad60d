"""Checks of a study before its first model is loaded, and errors that name the run they are about."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Interrupted, SoftPromptError
from ._spec import RunSpec
from ._stored import stored_names
from ._texts import canonical

if TYPE_CHECKING:
    from ..data import Splits


def under_other_names(folder: "Path | str", specs: Sequence[RunSpec]) -> str | None:
    """What to say of a store that holds runs and none of these, which read files; None where it is otherwise.

    Args:
        folder: of the store.
        specs: the runs.
    """
    stored = stored_names(Path(folder))
    if not stored or stored & {spec.name for spec in specs} or not any(spec.declared.source.files for spec in specs):
        return None
    return (
        f"{folder} holds runs, and none of these: runs are named by the whole paths of their files, so if "
        "the folder of the study was moved or renamed, put it back"
    )


def missing(folder: "Path | str", specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The runs that are not stored yet, without repetitions."""
    unique, stored = {spec.name: spec for spec in specs}, stored_names(Path(folder))
    return [spec for name, spec in unique.items() if name not in stored]


def check_waiting(store: Path, specs: Sequence[RunSpec], data_root: "Path | str | None") -> None:
    """Refuse runs that cannot work, as far as this is known without their models.

    Raises:
        SoftPromptError: rows, columns, initial vectors, shots ... that cannot be used, named by their run.
        StorageFailure: the store cannot be written.
    """
    from ..backbones import refuse_no_folder
    from ..data import load_rows, split_rows
    from ..store import refuse_no_place
    from ..tasks import refuse_template, styled
    from ..training import check_request

    waiting = missing(store, specs)
    if waiting:
        refuse_no_place(store, "the study")
    rows: dict[bytes, Splits] = {}
    for spec in waiting:
        with named((spec,)):
            refuse_no_folder(spec.frozen.name)
            task = styled(spec.declared, spec.style)
            refuse_template(task.template, task.target)
            key = canonical((task.to_json(), spec.max_bad_rows))
            if key not in rows:
                # Only the rows of one task are kept, because a large set takes much memory. Runs come task by task.
                rows = {key: split_rows(task, load_rows(task, data_root, spec.max_bad_rows))}
            check_request(task, rows[key], [spec.prompt], spec.settings, spec.frozen)


@contextlib.contextmanager
def named(specs: Sequence[RunSpec]) -> Iterator[None]:
    """Make errors inside the `with` block name the run."""
    names = [spec.describe() for spec in specs]
    what = f"{names[0]} and {len(names) - 1} more beside it" if len(names) > 1 else names[0]
    try:
        yield
    except Interrupted:
        raise
    except SoftPromptError as error:
        error.args = (f"{what}: {error.message}",)
        raise
    except Exception as error:
        error.add_note(f"while training {what}")
        raise
