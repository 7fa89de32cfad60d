"""`softprompt analyze`: one analysis of trained prompts as a table, a figure and numbers."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..checks import option, refuse_exists
from ..errors import BadInput
from ._changed import tell_changed
from ._flatten import Given, flatten
from ._layout import width_of
from ._stores import kept_in_stores
from .options import DataRoot, Device, Json, Model
from .printing import print_json, say, table
from .required import default_folder


@flatten
def analyze(
    *,
    given: Given,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Name of the analysis: norm, similarity, broadcast, groups, neighbors, transfer, ablation, rates, "
            "attention, drift, attribution or "
            "nearest-examples. Without a name: what each shows.",
        ),
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN|PROMPT|STORE...", help="Folders of runs, prompts or stores of studies."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Name of a prompt in the runs or stores; may be repeated. Default: all.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="For transfer, a further task; may be repeated.")] = None,
    by: Annotated[
        str | None, typer.Option(help="For ablation, the setting to compare. Default: the first that varies.")
    ] = None,
    copies: Annotated[
        list[int] | None,
        typer.Option(min=1, help="For broadcast, how often the vector stands; may be repeated. Default: 1 to 10."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows of the split, drawn by --seed.")] = 64,
    split: Annotated[str, typer.Option(help="Split: train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the draw of rows.")] = 0,
    data_root: DataRoot = None,
    model: Model = None,
    device: Device = "auto",
    figures: Annotated[
        Literal["png", "svg"], typer.Option("--format", help="Format of the figure: png or svg.")
    ] = "png",
    output: Annotated[Path | None, typer.Option(help="Folder to write. Default: runs/NAME-<run>-<time>.")] = None,
    json_lines: Json = False,
) -> None:
    """Look into trained prompts: their norms, vectors, nearest words, attention, what they transfer, and more."""
    from ..analysis import analyses
    from ..errors import pick

    if name is None:
        listed = [{"analysis": key, "shows": each.summary} for key, each in analyses.ANALYSES.items()]
        print(table(listed, width_of(sys.stdout)))
        return
    chosen = pick("analysis", name, analyses.ANALYSES)
    if not runs:
        raise BadInput(f"no run; give one, as in softprompt analyze {name} runs/sst2")
    if by is not None and name != "ablation":
        raise BadInput(f"--by is for ablation, and {name} compares no settings; leave it out")
    if task and name != "transfer":
        raise BadInput(f"--task is for transfer, and {name} reads the rows of each prompt's own task; leave it out")
    if copies and name != "broadcast":
        raise BadInput(f"--copies is for broadcast, and {name} repeats no vector; leave it out")
    for ignored in sorted(given & chosen.ignores.keys()):
        raise BadInput(f"{option(ignored)} is for other analyses, and {name} {chosen.ignores[ignored]}; leave it out")
    from ..analysis import written
    from ..data import refuse_split
    from ..store import refuse_no_place

    refuse_split(split)
    placed = _placed(runs, prompt or (), chosen.reads_records)
    target = output or default_folder(f"{name}-{Path(runs[0]).resolve().name}")
    refuse_exists(target, f"the analysis {name}")
    refuse_no_place(target, f"the analysis {name}")
    if "rows" not in chosen.ignores:
        tell_changed(placed["paths"], split)
    bench = analyses.Bench(
        **placed, tasks=task or (), rows=rows, split=split, seed=seed, by=by,
        copies=copies or (), data_root=data_root, model=model, device=device,
    )  # fmt: skip
    values = chosen.compute(bench)
    written.write(name, chosen, values, target, kind=figures)
    if json_lines:
        print_json(values)
    else:
        print(table(chosen.rows(values), width_of(sys.stdout)))
    if warning := chosen.warning(values):
        say(f"softprompt: {warning}")
    say(f"written to {target}")


def _placed(paths: Sequence[str], prompts: Sequence[str], reads_records: bool) -> dict[str, Any]:
    """The prompts of an analysis as `Bench` takes them: a store of a study stands for its runs.

    Args:
        paths: of runs, prompts and stores.
        prompts: names that are chosen in each run and store.
        reads_records: whether what the runs of a store recorded is enough; else it stands for the prompts it keeps.
    """
    from ..study import is_store, recorded

    if not reads_records:
        return dict(kept_in_stores(paths, prompts))
    stores = list(dict.fromkeys(path for path in paths if is_store(path)))
    return {
        "paths": [path for path in paths if path not in stores],
        "prompts": prompts,
        "recorded": [run for at in stores for run in recorded(at, prompts)],
    }
