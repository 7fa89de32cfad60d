"""One row of a request on its way through the engine, and its answer."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, final

from jaxtyping import Float
from torch import Tensor

from ..data import Examples
from ..inference.answers import Answers
from .served import ServedPrompt


@final
@dataclass(frozen=True)
class Answer:
    """The answer to one row.

    Args:
        text: a label word, a number or generated text.
        value: class id, number or text.
        scores: of each label in nats up to one number, [c], calibrated where the prompt is; None where none are scored.
        tokens: generated tokens.
        finish: "stop" where the model ended its answer, "length" where its limit did.
    """

    text: str
    value: Any
    scores: Float[Tensor, " c"] | None = None
    tokens: int = 0
    finish: Literal["stop", "length"] = "stop"

    @classmethod
    def first_of(cls, answers: Answers) -> "Answer":
        """The first of these answers."""
        return cls(answers.texts[0], answers.values[0], None if answers.scores is None else answers.scores[0])

    def probabilities(self, labels: tuple[str, ...]) -> dict[str, float]:
        """The probability of each label, as `softprompt.predict` gives it; empty where no labels are scored."""
        return {} if self.scores is None else dict(zip(labels, self.scores.softmax(-1).tolist(), strict=True))


@final
@dataclass(eq=False)
class Work:
    """A row that is to be answered by one prompt.

    Args:
        served: the prompt; a replacement that comes later changes nothing here.
        row: the tokens of the row, one example.
        truncated: whether the text lost its end.
        calibrate: whether a stored calibration is applied to the scores.
        wants: longest generated answer, in tokens; as many as the model has positions for, at most.
        stops: texts at which a generated answer ends; they are no part of it.
        deadline: when the answer is no longer of use, in the seconds of `time.monotonic`.
        tell: is given the text of the answer so far after each token, in the thread of the model.
        left: set when nobody waits for the answer any more.
        began: when the row was taken in, in the same seconds.
    """

    served: ServedPrompt
    row: Examples
    truncated: bool = False
    calibrate: bool = True
    wants: int = 0
    stops: tuple[str, ...] = ()
    deadline: float = float("inf")
    tell: Callable[[str], None] | None = None
    left: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def length(self) -> int:
        """Positions of prompt and text."""
        return self.served.length + self.tokens

    @functools.cached_property
    def tokens(self) -> int:
        """Tokens of the text."""
        return int(self.row.inputs.offsets[-1])

    @property
    def cost(self) -> int:
        """Positions that a request is charged for this row: those of prompt, text and written answer."""
        return self.length + self.wants

    @property
    def is_alone(self) -> bool:
        """Whether the row is read in several windows, so that it has passes of its own."""
        return self.row.windows is not None and len(self.row.windows.owner) > 1
