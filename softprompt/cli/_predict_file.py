"""`softprompt predict --output`: answers of several prompts to the rows of a file, written into a file."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .printing import say


def refuse_beside_output(file: Path | None, texts: Sequence[str] | None, task_options: Mapping[str, Any]) -> None:
    """Refuse options that cannot stand beside --output.

    Raises:
        BadInput: no file, texts, or words for the task.
    """
    if file is None or texts:
        raise BadInput("--output is for the rows of a file; give --file FILE and no texts")
    given = [option for option, value in task_options.items() if value]
    if given:
        raise BadInput(f"with --output each prompt answers its own task; leave {', '.join(given)} out")


def to_file(sources: Sequence[str], file: Path, output: Path, show: bool, **options: Any) -> None:
    """Answer the rows of a file with each prompt, and print the path of the output."""
    from ..inference.bulk import predict_file
    from ..interop.stored import load

    prompts = {name: load(source) for name, source in _named(sources).items()}
    with _rate(show) as tell:
        predict_file(prompts, file, output, tell=tell, **options)
    print(output.absolute())


def _named(sources: Sequence[str]) -> dict[str, str]:
    """The prompts by the names of their columns: what stands before "=", or the name of the prompt's folder.

    A path that is there is one, whatever it holds.

    Raises:
        BadInput: two prompts of one name.
    """
    named: dict[str, str] = {}
    for source in sources:
        name, sign, path = source.partition("=")
        if not sign or Path(source).exists():
            parts = [part for part in Path(source).parts if part != "prompt"]
            name, path = parts[-1] if parts else source, source
        if name in named:
            raise BadInput(f"two prompts would have the column {name!r}; give names, as --prompts NAME={path}")
        named[name] = path
    return named


@contextlib.contextmanager
def _rate(show: bool) -> Iterator[Callable[[int, float], None]]:
    """Reports progress in one line: after each chunk on a terminal, elsewhere only after the last."""
    last: list[str] = []

    def tell(rows: int, rate: float) -> None:
        last[:] = [f"{rows} rows, {rate:.4g} rows a second"]
        if show and sys.stderr.isatty():
            print(f"\r{last[0]}", end="", file=sys.stderr, flush=True)

    yield tell
    if show and last:
        if sys.stderr.isatty():
            print(file=sys.stderr)
        else:
            say(last[0])
