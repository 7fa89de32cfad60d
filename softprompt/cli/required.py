"""What several subcommands need before they begin: a model, and a folder to write."""

from datetime import datetime
from pathlib import Path

from ..errors import BadInput


def required_model(model: str | None, instead: str = "", *, example: str = "google-t5/t5-small") -> str:
    """The name of the frozen model.

    Args:
        model: what was given.
        instead: what the command takes in its place, as the message says it.
        example: a hub id that would do.

    Raises:
        BadInput: none was given.
    """
    if model is None:
        raise BadInput(f"no model; give --model, a hub id such as {example} or a folder{instead}")
    return model


def default_folder(what: str) -> Path:
    """`runs/WHAT-20260102-030405`: the folder that a command writes where none is given."""
    return Path("runs") / f"{what}-{datetime.now():%Y%m%d-%H%M%S}"
