"""A model with its prompts, from their places."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from ..backbones import kind_of_spec, lasting_name, load_backbone
from ..errors import SoftPromptError
from ..prompts.prompt import Provenance, SoftPrompt
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
    """The spec, completed by what the first prompt of this model was trained with.

    Raises:
        BadInput: the place holds no prompts, or there is no such model.
        UnsupportedModel: a family that is not supported.
    """
    if spec.answers != "auto" or (first := _first_of(spec, place)) is None:
        return spec
    scale = spec.embedding_scale if spec.embedding_scale != 1 else first.backbone.embedding_scale
    return dataclasses.replace(spec, answers=first.answers, embedding_scale=scale)


def _first_of(spec: ModelSpec, place: Path) -> Provenance | None:
    """Of the first prompt whose model has this name; else, for a model may move, of the first whose has its kind."""
    name, by_kind = lasting_name(spec.name), dict[str, Provenance]()
    for prompt in _readable(place):
        origin = prompt.provenance.backbone
        if origin.name == name:
            return prompt.provenance
        by_kind.setdefault(origin.kind, prompt.provenance)
    return by_kind.get(kind_of_spec(spec)) if by_kind else None


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
