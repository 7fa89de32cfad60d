"""`softprompt methods`: the methods, and how many parameters each trains."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ._layout import width_of
from .options import Json
from .printing import print_json, record, say, table

if TYPE_CHECKING:
    from ..prompts.method_list import MethodRecord

Width = Annotated[int, typer.Option("--width", min=1, help="Embedding size e of the frozen model.")]
Layers = Annotated[
    int,
    typer.Option(
        "--layers", min=1, help="Number of layers that a prompt enters: those of the frozen model with --deep."
    ),
]

methods = typer.Typer(
    help="List methods and regularisers: what is trained, how many parameters, which options.", no_args_is_help=True
)


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Frozen model in which the parameters are counted, in place of --width: hub id, folder or built-in name.",
    ),
]


@methods.command("list")
def list_methods(width: Width = 768, layers: Layers = 1, model: Model = None, json_lines: Json = False) -> None:
    """List the methods: length, trained and stored parameters for embedding size --width, units, learning rate."""
    from ..prompts.methods import METHODS

    rows = _rows(width, layers, model)
    if json_lines:
        print_json(rows)
    else:
        print(table([{**row, "summary": METHODS[row["method"]].summary} for row in rows], width_of(sys.stdout)))
        if model is None:
            say("methods that train weights of the model have no count here; give --model")
            if layers > 1:
                say("deep prompts that repeat their vectors store more on a decoder; give --model")
        say("units and lr are defaults; EPT trains prompts with --units raw --lr 0.3,")
        say("but searches five rates for SuperGLUE")


def _rows(width: int, layers: int, model: str | None) -> "list[MethodRecord]":
    """The table of methods, with the weights of a model counted where one is named."""
    from ..prompts.method_list import describe
    from ..prompts.methods import METHODS

    if model is None:
        return describe(width, layers)
    from ..backbones import load_backbone
    from ..baselines import count
    from ..errors import UnsupportedModel

    backbone = load_backbone(model)
    rows = describe(backbone.embedding_size, layers, in_decoder=backbone.kind == "decoder")
    for row in rows:
        method = METHODS[row["method"]]
        if method.weights:
            # Without a count: T5 has no biases for `bitfit`.
            with contextlib.suppress(UnsupportedModel):
                row["trainable"] = row["stored"] = count(method.weights, backbone, method.options)
    return rows


@methods.command("regularizers")
def list_regularizers(json_lines: Json = False) -> None:
    """List the regularisers with their options and defaults: --regularizer NAME:option=value,option=value."""
    from ..regularizers import REGULARIZERS

    if json_lines:
        print_json({name: {"summary": kind.summary, **kind.to_json()} for name, kind in REGULARIZERS.items()})
        return
    for name, regularizer in REGULARIZERS.items():
        values = regularizer.to_json()
        del values["perturbation"]
        print(
            record(
                {"regularizer": name, "summary": regularizer.summary, **{key: str(v) for key, v in values.items()}},
                width_of(sys.stdout),
            )
        )
        print()


@methods.command("show")
def show_method(
    name: Annotated[str, typer.Argument(help="Name of a method.")],
    width: Width = 768,
    layers: Layers = 1,
    model: Model = None,
    json_lines: Json = False,
) -> None:
    """Show a method: its paper, its options with their defaults, its learning rates."""
    from ..errors import pick
    from ..prompts.methods import METHODS

    method = pick("method", name, METHODS)
    counts = next(row for row in _rows(width, layers, model) if row["method"] == name)
    rates = {"lr in raw units": method.lr, "lr in rms units": method.lr_rms}
    if method.weights:
        rates = {}
    if method.is_direction:
        del rates["lr in raw units"]
    values = {**counts, "summary": method.summary, **rates, "m": method.m, "repeats": method.repeats}
    if json_lines:
        print_json({**values, "options": method.defaults})
    else:
        options = {f"--method-option {key}": str(value) or "(empty)" for key, value in method.defaults.items()}
        print(record({**values, **options}, width_of(sys.stdout)))
