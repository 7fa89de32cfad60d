"""`softprompt landscape`: how steep the loss is around a prompt's input, or around the prompt."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..checks import refuse_exists
from ..settings import LandscapeSettings
from ._changed import tell_changed
from ._flatten import flatten
from ._layout import width_of
from ._stores import kept_in_stores
from .options import DataRoot, Device, Json, Model, OwnStyle, OwnTask
from .printing import print_json, say, table
from .required import default_folder

if TYPE_CHECKING:
    from ..analysis.stored_landscapes import Drawn
    from ..analysis.subjects import Subject


@flatten
def landscape(
    *,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|PROMPT|STORE...",
            help="Folders of runs, prompts or stores of studies, or user/name on the hub.",
        ),
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="Name of a prompt in the runs or stores; may be repeated. Default: all.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Draw all prompts side by side, on one scale and the same rows.")
    ] = False,
    split: Annotated[
        str, typer.Option(help="Split: train, validation or test, by the split rule of training.")
    ] = "test",
    task: OwnTask = None,
    style: OwnStyle = None,
    data_root: DataRoot = None,
    model: Model = None,
    device: Device = "auto",
    figures: Annotated[
        Literal["png", "svg"], typer.Option("--format", help="Format of the figures: png or svg.")
    ] = "png",
    output: Annotated[Path | None, typer.Option(help="Folder to write. Default: runs/landscape-<run>-<time>.")] = None,
    json_lines: Json = False,
    settings: Annotated[LandscapeSettings, "Plane"],
) -> None:
    """Measure and draw the loss over a plane through the embedded text, or through the prompt.

    The plane is spanned by the gradient and a random direction at a right angle to it. Numbers are means over rows with
    their standard errors, beside the accuracy on these rows.
    """
    from ..analysis.landscape_files import write
    from ..analysis.stored_landscapes import draw, refuse_incomparable
    from ..analysis.subjects import subjects
    from ..store import refuse_no_place

    target = output or default_folder(f"landscape-{Path(runs[0]).resolve().name}")
    # This is checked before the minute of computing.
    refuse_exists(target, "the landscape")
    refuse_no_place(target, "the landscape")
    placed = kept_in_stores(runs, prompt or ())
    chosen = subjects(placed["paths"], prompts=placed["prompts"], task=task, style=style, data_root=data_root)
    if compare:
        refuse_incomparable(chosen)
    if task is None:
        tell_changed(placed["paths"], split)

    def tell(subject: "Subject") -> None:
        say(f"{subject.label}: {settings.rows} rows x {settings.grid}² points of the {settings.space} plane")

    drawn = list(draw(chosen, settings, model=model, split=split, device=device, tell=tell))
    folder = write(drawn, target, settings, compare=compare, kind=figures)
    _print(drawn, json_lines)
    say(f"written to {folder}")


def _print(drawn: "list[Drawn]", json_lines: bool) -> None:
    if json_lines:
        for landscape in drawn:
            values = landscape.to_json()
            print_json({name: values[name] for name in values if name not in ("surface", "examples")})
        return
    # Where some answers are no classes, the headline score is what all have.
    right = "accuracy" if all(landscape.majority is not None for landscape in drawn) else "score"
    print(table([_row(landscape, right) for landscape in drawn], width_of(sys.stdout)))
    for landscape in drawn:
        if landscape.warning:
            print(landscape.warning)


def _row(drawn: "Drawn", right: str) -> dict[str, Any]:
    """A landscape as people read it; slopes and radius in units of the word embeddings."""
    numbers = drawn.landscape.numbers()
    titles = {
        "loss": "loss",
        "max - min": "range",
        "mean |Z - Z0|": "mean_change",
        "gradient /rms": "gradient_norm_rms",
        "curvature /rms²": "curvature_rms",
    }
    return {
        "prompt": drawn.subject.label,
        "rows": len(drawn.names),
        right: drawn.metrics[right],
        "one class": drawn.majority,
        **{title: _told(numbers[key].mean, numbers[key].standard_error) for title, key in titles.items()},
        "radius, token norms": numbers["radius_token_norms"].mean,
    }


def _told(mean: float, error: float | None) -> str:
    return f"{mean:.3g}" if error is None else f"{mean:.3g} ± {error:.2g}"
