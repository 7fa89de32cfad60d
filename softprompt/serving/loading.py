"""A model with its prompts, from their places."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from ..backbones import load_backbone
from ..errors import SoftPromptError
from ..prompts.prompt import SoftPrompt
from ..settings import ModelSpec
from ..store import read_prompt
from .bank import PromptBank, Refusal
from .folder import PromptFolder, places_in
from .packed import BankFile, read_bank
from .served import Admission


def filled(spec: ModelSpec, place: Path) -> tuple[PromptBank, Callable[[], list[Refusal]], list[Refusal]]:
    """Return a bank with the prompts of a folder or a packed file, a function that looks for changes, and the refusals.

    Args:
        spec: the frozen model.
        place: the folder or the file.

    Raises:
        BadInput: the place holds no prompts; found before the model is loaded.
        SoftPromptError: the model cannot be loaded.
    """
    spec = as_trained(spec, place)
    bank = PromptBank(Admission(load_backbone(spec)))
    source = BankFile(place, bank) if place.is_file() else PromptFolder(place, bank)
    return bank, source.read, source.read()


def as_trained(spec: ModelSpec, place: Path) -> ModelSpec:
    """The spec, completed by what the first prompt was trained with.

    Raises:
        BadInput: the place holds no prompts.
    """
    first = next(_readable(place), None)
    if first is None or spec.answers != "auto":
        return spec
    trained = first.provenance
    scale = spec.embedding_scale if spec.embedding_scale != 1 else trained.backbone.embedding_scale
    return dataclasses.replace(spec, answers=trained.answers, embedding_scale=scale)


def _readable(place: Path) -> Iterator[SoftPrompt]:
    if place.is_file():
        yield from (prompt for _, prompt in read_bank(place))
        return
    for folder in places_in(place)[0].values():
        try:
            yield read_prompt(folder)
        except SoftPromptError:
            # It is told of when the folder is read.
            continue
