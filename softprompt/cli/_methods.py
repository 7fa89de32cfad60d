"""`softprompt methods`: the methods, and how many numbers each trains."""

import sys
from typing import Annotated

import typer

from ._layout import width_of
from .options import Json
from .printing import print_json, record, say, table

Width = Annotated[int, typer.Option("--width", min=1, help="Embedding size e of the frozen model.")]
Layers = Annotated[
    int, typer.Option("--layers", min=1, help="Layers that a prompt enters; the frozen model's with --deep.")
]

methods = typer.Typer(help="Methods: what is trained, and how many numbers that is.", no_args_is_help=True)


@methods.command("list")
def list_methods(width: Width = 768, layers: Layers = 1, json_lines: Json = False) -> None:
    """All methods: prompt length, trained and stored numbers for embedding size --width; units and learning rate."""
    from ..prompts.methods import METHODS, describe

    rows = describe(width, layers)
    if json_lines:
        print_json(rows)
    else:
        print(table([{**row, "summary": METHODS[row["method"]].summary} for row in rows], width_of(sys.stdout)))
        say("units and lr are defaults; the papers train all of theirs in raw units at 0.3:")
        say("--units raw --lr 0.3")


@methods.command("regularizers")
def list_regularizers(json_lines: Json = False) -> None:
    """All regularisers with their options and defaults: --regularizer NAME:option=value,option=value."""
    from ..regularizers import REGULARIZERS

    if json_lines:
        print_json({name: {"summary": one.summary, **one.to_json()} for name, one in REGULARIZERS.items()})
        return
    for name, one in REGULARIZERS.items():
        values = one.to_json()
        del values["perturbation"]
        print(
            record(
                {"regularizer": name, "summary": one.summary, **{key: str(v) for key, v in values.items()}},
                width_of(sys.stdout),
            )
        )
        print()


@methods.command("show")
def show_method(
    name: Annotated[str, typer.Argument(help="Name of a method.")],
    width: Width = 768,
    layers: Layers = 1,
    json_lines: Json = False,
) -> None:
    """One method: its paper, its options with their defaults, its learning rate."""
    from ..errors import pick
    from ..prompts.methods import METHODS, describe

    method = pick("method", name, METHODS)
    counts = next(row for row in describe(width, layers) if row["method"] == name)
    rates = {"lr in raw units": method.lr, "lr in rms units": method.lr_rms}
    if method.is_direction:
        del rates["lr in raw units"]
    values = {**counts, "summary": method.summary, **rates, "m": method.m, "repeats": method.repeats}
    if json_lines:
        print_json({**values, "options": method.defaults})
    else:
        options = {f"--method-option {key}": str(value) for key, value in method.defaults.items()}
        print(record({**values, **options}, width_of(sys.stdout)))
