"""How a stored prompt answers: as it was trained to, wherever it is used."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from ..backbones import refuse_unknown_normalization
from ..documents import check_shape, refuse_more
from ..errors import BadInput, DamagedFile, SoftPromptError
from ..prompts.tuned import Stored
from ..tasks import Task
from .calibration import Calibration

log = logging.getLogger("softprompt")

VERSION = 1
# Tokens of an answer where nobody says.
NEW_TOKENS = 20


@final
@dataclass(frozen=True)
class Scoring:
    """How label words are scored, or an answer is written. The defaults are what prompts without a record mean.

    Args:
        end: whether the end of sequence belongs to a label's tokens.
        normalize: "sum" over the tokens' log-probabilities, their "mean", or the "first" alone.
        calibration: what makes the scores of the labels into probabilities that were fitted; None leaves them.
        decode: "generate" where the model writes even label words; else "auto".
        max_new_tokens: tokens of the longest written answer.
    """

    end: bool = True
    normalize: str = "sum"
    calibration: Calibration | None = None
    decode: Literal["auto", "generate"] = "auto"
    max_new_tokens: int = NEW_TOKENS

    @classmethod
    def of(cls, prompt: Stored) -> "Scoring":
        """How this prompt answers.

        Raises:
            BadInput: it was stored by a later version, or writes longer answers than the limit allows.
            DamagedFile: its record cannot be read.
        """
        values = prompt.provenance.scoring
        if not values:
            return cls()
        if values.get("version") != VERSION:
            raise BadInput(
                f"this prompt's labels are scored by version {values.get('version')!r} of the rule, this softprompt "
                f"has {VERSION}; upgrade it"
            )
        try:
            own = {name: value for name, value in values.items() if name != "version"}
            check_shape(cls, own)
            if own.get("calibration") is not None:
                own["calibration"] = Calibration.from_json(own["calibration"])
            scoring = cls(**own)
            refuse_unknown_normalization(scoring.normalize)
            if scoring.max_new_tokens < 1:
                raise ValueError(f"answers of {scoring.max_new_tokens} tokens")
        except (SoftPromptError, ValueError) as error:
            raise DamagedFile(f"this prompt does not say how it answers ({error}); fetch it again") from error
        longest = scoring.max_new_tokens
        refuse_more("new_tokens", longest, f"this prompt writes answers of {longest} tokens")
        return scoring

    def to_json(self) -> Mapping[str, Any]:
        """What a prompt stores of it: nothing where it is what prompts without a record mean."""
        values: dict[str, Any] = {} if self.end else {"end": False}
        values |= {} if self.normalize == "sum" else {"normalize": self.normalize}
        values |= {} if self.calibration is None else {"calibration": self.calibration.to_json()}
        values |= {} if self.decode == "auto" else {"decode": self.decode}
        values |= {} if self.max_new_tokens == NEW_TOKENS else {"max_new_tokens": self.max_new_tokens}
        return {"version": VERSION, **values} if values else {}


# What prompts mean that say nothing.
AS_BEFORE = Scoring()


def scoring_of(
    prompt: Stored, normalize: str | None = None, calibrate: bool = True, task: Task | None = None
) -> Scoring:
    """How a prompt answers, as it was trained to unless a user wants it otherwise.

    Args:
        prompt: a stored prompt.
        normalize: "sum", "mean" or "first", which leaves a calibration out that was fitted on other scores; None is
            the prompt's own.
        calibrate: whether a stored calibration is used.
        task: as it is asked. Other words than those of training leave a calibration out, with a warning; None is the
            prompt's own task.
    """
    scoring = Scoring.of(prompt)
    if calibrate and scoring.calibration is not None and task is not None and not _is_in_own_words(prompt, task):
        log.warning(
            "the calibration stored with this prompt is left out: it was fitted to its own template and instruction"
        )
        calibrate = False
    if normalize is not None and normalize != scoring.normalize:
        scoring = dataclasses.replace(scoring, normalize=normalize, calibration=None)
    return scoring if calibrate else dataclasses.replace(scoring, calibration=None)


def _is_in_own_words(prompt: Stored, task: Task) -> bool:
    """Whether a task is asked in the words of the prompt's training; True where these are not recorded."""
    if prompt.provenance.task is None:
        return True
    own = Task.from_json(prompt.provenance.task)
    return (own.template, own.instruction, own.cue) == (task.template, task.instruction, task.cue)
