"""`softprompt report`: one page of HTML about runs, studies and stability."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DataRoot, Device, Model
from .printing import say


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|STUDY|STABILITY|FOLDER...",
            help="Runs, stores of studies, searches, reports on stability, landscapes, or folders of these.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write. It must not exist.")] = Path(
        "report.html"
    ),
    replace: Annotated[bool, typer.Option("--replace", help="Replace the file if it exists.")] = False,
    rows: Annotated[
        bool,
        typer.Option("--rows", help="Let the best prompt of each task answer its test rows, for confusion and errors."),
    ] = False,
    test_rows: Annotated[
        int | None, typer.Option(min=1, help="Number of test rows for --rows. Default: as the run was scored.")
    ] = None,
    data_root: DataRoot = None,
    model: Model = None,
    device: Device = "auto",
) -> None:
    """Write one page of HTML that needs no network: scores, figures, errors, and how they were made."""
    from .. import reports

    # A folder of rows may come from the environment; the other options ask for --rows.
    given = {"model": model, "test_rows": test_rows, **({"device": device} if device != "auto" else {})}
    given |= {"data_root": data_root} if rows else {}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    print(reports.report(*runs, output=output, rows=rows, replace=replace, tell=say, **options))
