"""The compared settings, from the command line: methods and rates, or NAME: OPTIONS that replace the command's own."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from ..errors import BadInput
from ..settings import PromptSettings, TrainSettings
from ._flatten import Given, Without, flatten
from ._prompts import OF_GRID, PromptGrid
from ._suggest import explained

# What varies within a setting is not an option of it.
NO_SEEDS = Without({"seed", "init_seed", "order_seed", "draw_seed", "noise_seed"})
Setting = tuple[PromptSettings, TrainSettings]


def compared(
    grid: PromptGrid, shared: PromptSettings, settings: TrainSettings, texts: Sequence[str] | None
) -> dict[str, Setting]:
    """Name -> what is trained, the first being the reference.

    Without texts, each method and learning rate is a setting. Each text, "NAME: --option value ..." or a NAME alone, is
    what the command says with these options in the place of its own.

    Raises:
        BadInput: a text that cannot be read, two settings of one name, or a setting of several prompts.
        SoftPromptError: an option's value that cannot be.
    """
    if not texts:
        return _unique([(_prompt_name(grid, prompt), (prompt, settings)) for prompt in grid.prompts(shared)])
    arms = []
    for given in texts:
        name, words = _parted(given)
        changes = _options(name, words)
        prompts = _changed(grid, changes).prompts(_changed(shared, changes, OF_GRID))
        if len(prompts) > 1:
            raise BadInput(f"setting {name!r} is {len(prompts)} prompts; give it one --method and one --lr")
        arms.append((name, (prompts[0], _changed(settings, changes))))
    return _unique(arms)


def _parted(text: str) -> tuple[str, list[str]]:
    """The name, and the words of the options."""
    name, _, options = text.partition(":")
    # A name alone means the command's own setting. A name that contains options lacks its colon.
    if not name.strip() or " -" in f" {name}":
        raise BadInput(f"--setting {text!r} is not NAME: OPTIONS, as in 'guarded: --max-norm 4'")
    try:
        return name.strip(), shlex.split(options)
    except ValueError as error:
        raise BadInput(f"--setting {text!r} cannot be read: {error}") from error


def _options(name: str, words: Sequence[str]) -> dict[str, Any]:
    """The values of the options that were written, by field."""
    values_given: dict[str, Any] = {}
    app = typer.Typer(add_completion=False)

    @app.command(add_help_option=False)
    @flatten
    def setting(
        *,
        given: Given,
        grid: Annotated[PromptGrid, "", NO_SEEDS],
        shared: Annotated[PromptSettings, "", OF_GRID],
        settings: Annotated[TrainSettings, ""],
    ) -> None:
        """Only read."""
        values = {**vars(shared), **vars(grid), **vars(settings)}
        values_given.update({field: values[field] for field in given})

    try:
        app(args=list(words), prog_name="setting", standalone_mode=False)
    except TyperException as error:
        raise BadInput(f"setting {name!r}: {explained(error)}") from error
    return values_given


def _changed(values: Any, changes: Mapping[str, Any], apart: frozenset[str] = frozenset()) -> Any:
    fields = {f.name for f in dataclasses.fields(values)} - apart
    return dataclasses.replace(values, **{field: value for field, value in changes.items() if field in fields})


def _prompt_name(grid: PromptGrid, prompt: PromptSettings) -> str:
    return prompt.method if len(grid.lr) < 2 or prompt.lr is None else f"{prompt.method}, lr {prompt.lr:g}"


def _unique(settings: Sequence[tuple[str, Setting]]) -> dict[str, Setting]:
    names = [name for name, _ in settings]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"two settings are named {name!r}; give each a name of its own")
    return dict(settings)
