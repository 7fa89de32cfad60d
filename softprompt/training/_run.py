"""A finished run, as `train` and `resume` return it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput
from ..interop.stored import load
from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import Stored, TunedWeights
from ..run_layout import PROMPT, WEIGHTS
from ..store import load_tuned
from ._frozen import Comparison
from ._notebook import history, html_of
from ._result import Result

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and one result a prompt."""

    folder: Path
    results: Sequence[Result]
    # What the prompts are compared with, where `train` was told to look.
    comparison: Comparison | None = None

    def stored(self, member: int | str = 0) -> Stored:
        """What is stored of one member, by its number or name: a prompt, or weights where its method trains those.

        Raises:
            BadInput: it was dropped before anything was stored, or there is no such member.
        """
        return load(self._member(member))

    def prompt(self, prompt: int | str = 0) -> SoftPrompt:
        """The stored prompt of one prompt.

        Raises:
            BadInput: its method trains weights, not a prompt; `tuned` gives them.
        """
        folder = self._member(prompt)
        return SoftPrompt.load(folder if (folder / WEIGHTS).is_dir() else folder / PROMPT)

    def tuned(self, member: int | str = 0) -> TunedWeights:
        """The trained weights of one member, by its number or name.

        Raises:
            BadInput: its method trains a prompt; `prompt` gives it.
        """
        return load_tuned(self._member(member))

    @property
    def best(self) -> Result:
        """The prompt with the highest validation score; of equal ones the first.

        Raises:
            BadInput: every prompt was dropped before it was scored.
        """
        scored = [result for result in self.results if "score" in result.metrics.get("validation", {})]
        if not scored:
            raise BadInput(f"no prompt of {self.folder} was scored before it was dropped; try a lower --lr")
        return max(scored, key=lambda result: result.metrics["validation"]["score"])

    @property
    def history(self) -> "DataFrame":
        """What was recorded, as a DataFrame: a row for each step and each evaluation of each prompt."""
        return history(self.folder, [result.prompt for result in self.results])

    def _repr_html_(self) -> str:
        """The run as a notebook shows it: a table of its prompts and their validation scores over the steps."""
        return html_of(self.folder, self.results)

    def _member(self, member: int | str) -> Path:
        if isinstance(member, str):
            return self.folder / member
        if not -len(self.results) <= member < len(self.results):
            raise BadInput(f"this run has {len(self.results)} prompts, counted from 0; {member} is none of them")
        return self.folder / self.results[member].prompt
