"""What training leaves, a prompt or weights: read and written by one pair of functions, as every command does."""

from pathlib import Path

from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import Stored, TunedWeights
from ..store import holds_tuned, load_tuned, save_prompt, save_tuned


def load(source: str | Path) -> Stored:
    """What training stored: a prompt as `load_prompt` finds it, or trained weights in a folder that is here.

    Args:
        source: the folder of a prompt or of weights, that of a member of a run, a run with one member, or `user/name`
            on the hub.

    Raises:
        BadInput: as in `load_prompt` and `load_tuned`.
        DamagedFile: a file is not what was written.
    """
    return load_tuned(source) if holds_tuned(source) else SoftPrompt.load(source)


def save(stored: Stored, folder: str | Path) -> Path:
    """Write a prompt, or trained weights, into a new folder that `load` reads.

    Raises:
        BadInput: the folder exists.
        StorageFailure: the disk is full or not writable. What was stored before stays intact.
    """
    return save_tuned(stored, folder) if isinstance(stored, TunedWeights) else save_prompt(stored, folder)
