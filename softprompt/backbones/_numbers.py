"""How a model answers with a number, where nobody says."""

from ..builtin import BUILT_IN, folder_of
from ._load import read_configuration, refuse_no_folder, silence
from .family import kind_of


def answers_for_numbers(name: str, answers: str = "auto", revision: str | None = None) -> str:
    """As asked; where nobody asks, "linear-head" for an encoder, whatever head its checkpoint has.

    Args:
        name: folder, hub id or built-in backbone.
        answers: as asked; other than "auto" it stays.
        revision: commit on the hub.

    Raises:
        BadInput: no such model.
        UnsupportedModel: a family that is not supported.
    """
    if answers != "auto":
        return answers
    refuse_no_folder(name)
    with silence():
        config = read_configuration(str(folder_of(name)) if name in BUILT_IN else name, revision)
    return "linear-head" if kind_of(config, name) == "encoder" else answers
