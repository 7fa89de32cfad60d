"""The prompts in a folder: read at the start, and again where something changes."""

import os
from pathlib import Path
from typing import final

from ..errors import BadInput, SoftPromptError
from ..prompts.prompt import SoftPrompt
from ..run_layout import is_run
from ..store import MANIFEST, is_compiled, read_prompt
from .bank import PromptBank, Refusal

# Of the file that is written last, so that it changes with every prompt: its time, size and number.
Mark = tuple[int, int, int]
# Where a run's folders keep what was trained.
KINDS = ("*/prompt", "*/weights")


@final
class PromptFolder:
    """A run, or a folder whose folders are prompts, members of a run (`FOLDER/NAME/prompt`), or whole runs.

    The prompt of a run that has one is called as the run, several are called `RUN.MEMBER`.

    Args:
        path: the folder.
        bank: takes the prompts.
    """

    def __init__(self, path: Path, bank: PromptBank):
        self.path, self.bank = path, bank
        self._marks: dict[str, Mark | None] = {}
        # What the bank refused of what has not changed since, and all that was told of at the last look.
        self._denied: list[Refusal] = []
        self._told: set[Refusal] = set()

    def read(self) -> list[Refusal]:
        """Bring the bank to what the folder holds now; returns the prompts that are not served, and why.

        A prompt that is damaged while it is replaced leaves the one that was served. What did not change is not read
        again, unless it could not be read; a reason is told once.

        Raises:
            BadInput: the path is no folder, or is itself a prompt.
        """
        places, refused = places_in(self.path)
        marks = {name: _mark(place) for name, place in places.items()}
        changed = [name for name, mark in marks.items() if mark is None or mark != self._marks.get(name)]
        prompts: list[tuple[str, SoftPrompt]] = []
        for name in changed:
            try:
                prompts.append((name, read_prompt(places[name])))
            except Exception as error:
                refused.append(Refusal(name, _reason(error)))
                # It may be half copied, and whole at the next look without another mark.
                marks[name] = None
        unchanged = marks.keys() - set(changed)
        self._denied = [refusal for refusal in self._denied if refusal.name in unchanged] + self.bank.put(prompts)
        self.bank.remove(self._marks.keys() - marks.keys())
        self._marks = marks
        return self._new([*refused, *self._denied])

    def _new(self, refused: list[Refusal]) -> list[Refusal]:
        """Those that were not told of at the last look; they are logged."""
        new = [refusal for refusal in refused if refusal not in self._told]
        self._told = set(refused)
        for refusal in new:
            self.bank.tell_refused(refusal)
        return new


def _reason(error: Exception) -> str:
    # A stranger's file may break a reader in ways that nobody foresaw; the other prompts go on.
    return error.message if isinstance(error, SoftPromptError) else f"it cannot be read ({type(error).__name__})"


def places_in(path: Path) -> tuple[dict[str, Path], list[Refusal]]:
    """The folder of each prompt in a folder, or in a run, by its name, and what cannot be one.

    Raises:
        BadInput: the path is no folder, or is itself a prompt.
    """
    if not path.is_dir():
        raise BadInput(f"{str(path)!r} is no folder; give the folder that holds prompts")
    if (path / MANIFEST).exists():
        raise BadInput(f"{str(path)!r} is itself a prompt; give the folder that holds it: {str(path.parent)!r}")
    places, refused = {}, []
    if is_run(path):
        _sort(path, places, refused, Path(os.path.abspath(path)).name)
        return places, refused
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
        _place(name, folder, places, refused)
    elif inner.is_symlink():
        refused.append(Refusal(name, "its prompt is a link; put the folder itself there"))
    elif inner.is_dir():
        _place(name, inner, places, refused)
    elif (folder / "weights").is_dir():
        refused.append(Refusal(name, "it holds trained weights; only prompts share a model"))
    elif is_run(folder):
        prompts, weights = ({p.parent for p in folder.glob(kind) if not p.parent.is_symlink()} for kind in KINDS)
        for member in sorted(prompts | weights):
            is_only = {member} == (prompts or weights)
            _sort(member, places, refused, name if is_only else f"{name}.{member.name}")


def _place(name: str, folder: Path, places: dict[str, Path], refused: list[Refusal]) -> None:
    if name in places:
        taken = f"the prompt in {str(places[name])!r} has this name, and so has {str(folder)!r}; rename one"
        refused.append(Refusal(name, taken))
    else:
        places[name] = folder


def _mark(folder: Path) -> Mark | None:
    try:
        status = os.stat(folder / MANIFEST, follow_symlinks=False)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
