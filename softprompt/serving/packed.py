"""Many prompts in one file: one safetensors file whose documents are JSON within it, told apart by their places.

Folders of ten thousand prompts are thirty thousand files. Here their numbers lie one after another, and what their
documents have in common (task, model, versions) is stored once.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..documents import parsed
from ..errors import BadInput, DamagedFile
from ..prompts.prompt import SoftPrompt
from ..store import from_document, tensor_bytes, to_document, write_file
from .bank import PromptBank, Refusal, refuse_name

FORMAT = 1
DOCUMENT, NUMBERS = "document", "numbers"
# Of a whole bank; the limits of a prompt are those of a prompt's folder.
MAX_BYTES = 8 * 2**30
AGAIN = "pack it again"


def write_bank(file: Path, prompts: Iterable[tuple[str, SoftPrompt]]) -> Path:
    """Write prompts into one file, atomically.

    Args:
        file: the new file.
        prompts: by their names.

    Raises:
        BadInput: the file exists, there is no prompt, or a name is none or is given twice.
        StorageFailure: the disk is full or not writable.
    """
    packing = _Packing()
    for name, prompt in prompts:
        packing.add(name, prompt)
    if not packing.entries:
        raise BadInput("there are no prompts to pack; give a folder that holds some")
    return write_file(file, packing.content(), what="the bank")


@final
class _Packing:
    """The parts of a bank while it is made."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.shared: dict[str, int] = {}
        self.numbers: list[Tensor] = []
        self.count = 0

    def add(self, name: str, prompt: SoftPrompt) -> None:
        refuse_name(name)
        if name in self.entries:
            raise BadInput(f"two prompts are called {name!r}; give each a name of its own")
        document = to_document(prompt)
        places = {}
        for part, tensor in prompt.tensors().items():
            places[part] = [self.count, *tensor.shape]
            self.numbers.append(tensor.flatten())
            self.count += tensor.numel()
        provenance = {field: self._place(value) for field, value in document["provenance"].items()}
        kept = {"format": document["format"], "repeats": document["repeats"]}
        self.entries[name] = {**kept, "tensors": places, "provenance": provenance}

    def _place(self, value: Any) -> int:
        """Where a value is among those that documents share."""
        return self.shared.setdefault(json.dumps(value, sort_keys=True, ensure_ascii=False), len(self.shared))

    def content(self) -> bytes:
        """The bytes of the file."""
        numbers = torch.cat(self.numbers)
        document = {
            "format": FORMAT,
            "sha256": hashlib.sha256(numbers.numpy().tobytes()).hexdigest(),
            "shared": [json.loads(text) for text in self.shared],
            "prompts": self.entries,
        }
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        digest = hashlib.sha256(text).digest()
        return tensor_bytes({DOCUMENT: torch.frombuffer(bytearray(digest + text), dtype=torch.uint8), NUMBERS: numbers})


def read_bank(file: Path) -> Iterator[tuple[str, SoftPrompt]]:
    """The prompts of a bank by their names, checked as those of folders; all numbers are views of one tensor.

    Raises:
        BadInput: the file cannot be read, is no bank or of a later version, or holds what is no prompt.
        DamagedFile: it is not what was written.
    """
    document, numbers = _read(file)
    shared = document["shared"]
    for name, entry in document["prompts"].items():
        refuse_name(name)
        where = f"{file}: {name}"
        try:
            tensors = {part: _view(numbers, place) for part, place in entry["tensors"].items()}
            values = {field: shared[place] for field, place in entry["provenance"].items()}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise DamagedFile(f"{where!r} has no place in the bank; pack it again") from error
        shapes = {part: list(tensor.shape) for part, tensor in tensors.items()}
        whole = {**entry, "shapes": shapes, "provenance": values}
        yield name, from_document(whole, tensors, where)


def _read(file: Path) -> tuple[Mapping[str, Any], Tensor]:
    damaged = DamagedFile(f"{str(file)!r} is not as it was packed; {AGAIN}")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BadInput(f"{str(file)!r} is larger than a bank may be ({MAX_BYTES} bytes); check where it comes from")
        with safe_open(file, framework="pt") as opened:
            if set(opened.keys()) != {DOCUMENT, NUMBERS}:
                raise BadInput(
                    f"{str(file)!r} is no bank of prompts; make one with `softprompt bank FOLDER --output FILE`"
                )
            content, numbers = opened.get_tensor(DOCUMENT), opened.get_tensor(NUMBERS).clone()
    except OSError as error:
        raise BadInput(f"cannot read {str(file)!r} ({error.strerror or error}); check the path") from error
    except SafetensorError as error:
        raise DamagedFile(f"{str(file)!r} is no whole safetensors file ({error}); pack it again") from error
    if content.dtype != torch.uint8 or numbers.dtype != torch.float32 or numbers.ndim != 1:
        raise damaged
    raw = content.numpy().tobytes()
    if hashlib.sha256(raw[32:]).digest() != raw[:32]:
        raise damaged
    document = parsed(raw[32:], file, repair=AGAIN)
    if document.get("format") != FORMAT:
        raise BadInput(
            f"{str(file)!r} is of format {document.get('format')!r}, this softprompt reads {FORMAT}; upgrade it"
        )
    if document.get("sha256") != hashlib.sha256(numbers.numpy().tobytes()).hexdigest():
        raise damaged
    if not isinstance(document.get("shared"), list) or not isinstance(document.get("prompts"), dict):
        raise damaged
    return document, numbers


def _view(numbers: Tensor, place: list[int]) -> Tensor:
    start, *shape = place
    if any(type(number) is not int or number < 0 for number in place):
        raise ValueError("a place is told by whole numbers")
    size = math.prod(shape)
    if start + size > len(numbers):
        raise ValueError("a prompt lies outside of its bank")
    return numbers[start : start + size].view(shape)


@final
class BankFile:
    """A packed file whose prompts are served.

    Args:
        path: the file.
        bank: takes the prompts.
    """

    def __init__(self, path: Path, bank: PromptBank):
        self.path, self.bank = path, bank
        self._mark: tuple[int, int, int] | None = None
        self._names: set[str] = set()

    def read(self) -> list[Refusal]:
        """Bring the bank to what the file holds now, if it has changed; returns the prompts that are not served.

        Raises:
            BadInput: the file cannot be read. What was served goes on.
            DamagedFile: it is not what was written.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise BadInput(f"cannot read {str(self.path)!r} ({error.strerror}); check the path") from error
        mark = (status.st_mtime_ns, status.st_size, status.st_ino)
        if mark == self._mark:
            return []
        prompts = dict(read_bank(self.path))
        refused = self.bank.put(prompts.items())
        for refusal in refused:
            self.bank.tell_refused(refusal)
        self.bank.remove(self._names - prompts.keys())
        self._mark, self._names = mark, set(prompts)
        return refused
