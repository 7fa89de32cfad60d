"""What several tests share: a labelled task, comparisons of folders and prompts, threads, a change of a document."""

import contextlib
import csv
import random
import resource
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from softprompt.backbones import AbstractBackbone
from softprompt.documents import read_sealed, sealed_bytes
from softprompt.prompts.contract import AbstractTrainable
from softprompt.prompts.prompt import SoftPrompt
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.tasks import GROUPS, Task, custom_task
from softprompt.training._loop import Loop

GOOD = ("good", "great")
BAD = ("bad", "terrible")
# The 21 tasks of the Explosive Prompt Tuning paper, in the order of its tables 1 and 2.
EPT_TASKS = (
    *GROUPS["glue"],
    *(f"super_glue/{name}" for name in ("boolq", "cb", "wic", "wsc.fixed", "multirc")),
    *(f"mrqa/{name}" for name in ("nq", "hotpotqa", "searchqa", "newsqa")),
    *("winogrande/xl", "yelp_polarity", "scitail", "paws"),
)
FILLER = ("the", "film", "movie", "was", "and", "a", "very", "it", "of", "in")


def review_rows(n: int, seed: int) -> list[tuple[str, str]]:
    """Balanced short reviews whose label is told by one word."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        words: list[str] = draw.choices(FILLER, k=draw.randint(2, 9))
        words.insert(draw.randint(0, len(words)), draw.choice(GOOD if i % 2 else BAD))
        rows.append((" ".join(words), "good" if i % 2 else "bad"))
    return rows


def review_task(folder: Path) -> Task:
    """A custom task over three CSV files: 48 training, 16 validation, 16 test rows."""
    folder.mkdir(parents=True)
    files = {}
    for seed, (split, n) in enumerate((("train", 48), ("validation", 16), ("test", 16))):
        path = folder / f"{split}.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *review_rows(n, seed)])
        files[split] = str(path)
    return custom_task(files, text_columns=("text",), label_column="label", name="reviews")


def same_files(a: Path, b: Path, ignore: tuple[str, ...] = ()) -> bool:
    """Whether two folders hold the same files with the same bytes, by relative path; asserts, to show which."""
    names = [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file() and p.name not in ignore} for f in (a, b)]
    assert names[0] == names[1]
    different = [name for name in sorted(names[0]) if (a / name).read_bytes() != (b / name).read_bytes()]
    assert different == []
    return True


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the values of a sealed document as its writer would have: with a checksum that fits them."""
    values = read_sealed(path)
    change(values)
    path.write_bytes(sealed_bytes(values))


def soft(trainable: AbstractTrainable) -> TrainablePrompt:
    """The same, which has to be a soft prompt and no baseline."""
    assert isinstance(trainable, TrainablePrompt)
    return trainable


@contextlib.contextmanager
def file_limit(size):
    """No file grows beyond so many bytes, as on a full disk. It ends with the block: pytest may write files, too."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def at_step(number: int, action: Callable[[], Any]) -> Callable[[Loop], Any]:
    """What replaces `Loop._optimize`: the action comes before this step."""
    optimize = Loop._optimize

    def acting(loop: Loop) -> Any:
        if loop.step == number:
            action()
        return optimize(loop)

    return acting


def fails(error: BaseException) -> Callable[..., Any]:
    """An action that raises the error."""

    def action(*values: Any) -> Any:
        raise error

    return action


def targets_of(backbone: AbstractBackbone, answers: Sequence[str]) -> torch.Tensor | None:
    """Label ids, padded with -100; None for an encoder, which reads none."""
    if backbone.kind == "encoder":
        return None
    rows = backbone.encode_answers(answers)
    width = max(map(len, rows))
    return torch.tensor([row + [-100] * (width - len(row)) for row in rows])


def equal(one: SoftPrompt, other: SoftPrompt) -> bool:
    """Whether two prompts have the same numbers, bit for bit, and say the same of themselves."""
    heads = [(p.head.weight, p.head.bias) if p.head else () for p in (one, other)]
    return (
        torch.equal(one.vectors, other.vectors)
        and (one.repeats, one.provenance) == (other.repeats, other.provenance)
        and len(heads[0]) == len(heads[1])
        and all(torch.equal(a, b) for a, b in zip(*heads, strict=True))
    )


def together(*works: Callable[[], Any]) -> list[Any]:
    """What each of some works returns, all of them at once in threads of their own; the first error is raised."""
    start, found, failed = threading.Barrier(len(works)), [None] * len(works), []

    def work(number: int) -> None:
        start.wait()
        try:
            found[number] = works[number]()
        except Exception as error:  # Of a thread it would be lost.
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found
