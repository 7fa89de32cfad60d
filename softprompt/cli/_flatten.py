"""Options from dataclasses: an argument that is one becomes an option a field, said once in its docstring."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from .. import checks


def described(kind: type) -> dict[str, str]:
    """Field -> its sentence, from the `Args:` of a dataclass's docstring."""
    sentences: dict[str, str] = {}
    name = ""
    _, _, arguments = (inspect.getdoc(kind) or "").partition("Args:\n")
    for line in arguments.splitlines():
        if line.startswith(" " * 8):
            sentences[name] += f" {line.strip()}"
        else:
            name, _, sentence = line.strip().partition(": ")
            sentences[name] = sentence
    return sentences


def option_of(field: dataclasses.Field, sentence: str, panel: str) -> inspect.Parameter:
    """`--batch-size` for `batch_size`, with its type, default, sentence and metadata "min"; a tuple is repeated."""
    option = typer.Option(
        # A switch is named outright: typer would add a `--no-...` beside it.
        checks.option(field.name),
        help=sentence[:1].upper() + sentence[1:],
        rich_help_panel=panel,
        min=field.metadata.get("min"),
        # The sentence names the choices; in the column of types they would cut the names of other options short.
        metavar="WORD" if get_origin(field.type) is Literal else None,
    )
    kind: Any = field.type
    default: Any = field.default
    if get_origin(kind) is tuple:
        kind, default = types.GenericAlias(list, get_args(kind)[:1]), list(default)
    annotation = Annotated[kind, option]  # pyright: ignore[reportInvalidTypeForm]  (a type made at run time)
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


class Without(frozenset[str]):
    """Fields that a command has no option for: `Annotated[SomeDataclass, "Panel", Without({"seed"})]`."""


def build(kind: type, values: Mapping[str, Any]) -> Any:
    """The dataclass from what its options were given; fields that have none keep their defaults."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class Given(frozenset[str]):
    """Names of the arguments that were written on the command line, defaults and the environment left out."""

    @classmethod
    def of(cls, context: Any) -> "Given":
        """Those that typer's context of a command has seen there."""
        sources = {name: context.get_parameter_source(name) for name in context.params}
        return cls(name for name, source in sources.items() if source and source.name == "COMMANDLINE")


def flatten(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one option a field in place of each argument `Annotated[SomeDataclass, "Panel"]`.

    Every field has a default; names must differ over all the command's dataclasses. A command with an argument `given`
    is told which options were written. Fields that stand in a `Without` behind the panel have no option.
    """
    signature = inspect.signature(command)
    # Argument -> the dataclass, and its fields that have an option.
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        kind, *panel = get_args(parameter.annotation) or (parameter.annotation,)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            sentences, left_out = described(kind), panel[1] if len(panel) > 1 else Without()
            fields = [f for f in dataclasses.fields(kind) if f.name not in left_out]
            groups[parameter.name] = kind, [f.name for f in fields]
            parameters += [option_of(f, sentences.get(f.name, ""), panel[0]) for f in fields]
        elif parameter.name != "given":
            parameters.append(parameter)
    # Last: an argument by position may not come after one by keyword.
    parameters.append(inspect.Parameter("given", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = Given.of(values.pop("given"))
        more = {"given": given} if "given" in signature.parameters else {}
        # A field that has no option may be called like an argument of the command, which keeps its value.
        taken = {name: {field: values.pop(field) for field in fields} for name, (_, fields) in groups.items()}
        made = {name: build(kind, taken[name]) for name, (kind, _) in groups.items()}
        command(**more, **values, **made)

    # typer reads both: the signature for names and defaults, the annotations for types.
    run.__dict__["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
