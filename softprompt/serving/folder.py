"""The prompts in a folder: read at the start, and again where something changes."""

import logging
import os
from pathlib import Path
from typing import final

from ..errors import BadInput, SoftPromptError
from ..prompts.prompt import SoftPrompt
from ..store import MANIFEST, is_compiled, read_prompt
from .bank import PromptBank, Refusal

log = logging.getLogger("softprompt.serving")
# Of the file that is written last, so that it changes with every prompt: its time, size and number.
Mark = tuple[int, int, int]


@final
class PromptFolder:
    """A folder whose folders are prompts, members of a run (`FOLDER/NAME/prompt`), or whole runs.

    The prompt of a run that has one is called as the run, several are called `RUN.MEMBER`.

    Args:
        path: the folder.
        bank: takes the prompts.
    """

    def __init__(self, path: Path, bank: PromptBank):
        self.path, self.bank = path, bank
        self._marks: dict[str, Mark | None] = {}

    def read(self) -> list[Refusal]:
        """Bring the bank to what the folder holds now; returns the prompts that are not served, and why.

        A prompt that is damaged while it is replaced leaves the one that was served. What did not change is not read
        again.

        Raises:
            BadInput: the path is no folder, or is itself a prompt.
        """
        places, refused = places_in(self.path)
        marks = {name: _mark(place) for name, place in places.items()}
        marks.update({refusal.name: None for refusal in refused})
        changed = [name for name in places if name not in self._marks or marks[name] != self._marks[name]]
        # What was refused before for the same reason is not told again.
        refused = [refusal for refusal in refused if refusal.name not in self._marks]
        prompts: list[tuple[str, SoftPrompt]] = []
        for name in changed:
            try:
                prompts.append((name, read_prompt(places[name])))
            except SoftPromptError as error:
                refused.append(Refusal(name, error.message))
            # A stranger's file may break a reader in ways that nobody foresaw; the other prompts go on.
            except Exception as error:
                refused.append(Refusal(name, f"it cannot be read ({type(error).__name__})"))
        refused += self.bank.put(prompts)
        self.bank.remove(self._marks.keys() - marks.keys())
        self._marks = marks
        for refusal in refused:
            log.warning("prompt %r is not served: %s", refusal.name, refusal.reason)
        return refused


def places_in(path: Path) -> tuple[dict[str, Path], list[Refusal]]:
    """The folder of each prompt in a folder by its name, and what cannot be one.

    Raises:
        BadInput: the path is no folder, or is itself a prompt.
    """
    if not path.is_dir():
        raise BadInput(f"{str(path)!r} is no folder; give the folder that holds prompts")
    if (path / MANIFEST).exists():
        raise BadInput(f"{str(path)!r} is itself a prompt; give the folder that holds it: {str(path.parent)!r}")
    places, refused = {}, []
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                refused.append(Refusal(entry.name, "it is a link; put the folder itself there"))
            elif entry.is_dir(follow_symlinks=False):
                _sort(Path(entry.path), places, refused)
    return places, refused


def _sort(folder: Path, places: dict[str, Path], refused: list[Refusal], name: str = "") -> None:
    """Note what a folder is under its name: a prompt, a run's folder of one, a whole run, or nothing of ours."""
    inner, name = folder / "prompt", name or folder.name
    if is_compiled(folder):
        refused.append(Refusal(name, "it is a compiled prompt; put the prompt that it was made from there"))
    elif (folder / MANIFEST).exists():
        places[name] = folder
    elif inner.is_symlink():
        refused.append(Refusal(name, "its prompt is a link; put the folder itself there"))
    elif inner.is_dir():
        places[name] = inner
    elif (folder / "weights").is_dir():
        refused.append(Refusal(name, "it holds trained weights; only prompts share a model"))
    elif (folder / "run.json").is_file():
        members = sorted(place.parent for place in folder.glob("*/prompt") if not place.parent.is_symlink())
        for member in members:
            _sort(member, places, refused, name if len(members) == 1 else f"{name}.{member.name}")


def _mark(folder: Path) -> Mark | None:
    try:
        status = os.stat(folder / MANIFEST, follow_symlinks=False)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
