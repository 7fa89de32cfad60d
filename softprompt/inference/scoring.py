"""How a stored prompt's label words are scored: as it was trained to, wherever it answers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from ..errors import BadInput, DamagedFile
from ..prompts.tuned import Stored
from .calibration import Calibration

VERSION = 1


@final
@dataclass(frozen=True)
class Scoring:
    """How label words are scored. The defaults are what prompts without a record mean.

    Args:
        end: whether the end of sequence belongs to a label's tokens.
        normalize: "sum" over the tokens' log-probabilities, their "mean", or the "first" alone.
        calibration: what makes the scores of the labels into probabilities that were fitted; None leaves them.
    """

    end: bool = True
    normalize: str = "sum"
    calibration: Calibration | None = None

    @classmethod
    def of(cls, prompt: Stored) -> "Scoring":
        """How this prompt's labels are scored.

        Raises:
            BadInput: it was stored by a later version.
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
        calibration = values.get("calibration")
        try:
            return cls(
                bool(values.get("end", True)),
                str(values.get("normalize", "sum")),
                None if calibration is None else Calibration.from_json(calibration),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise DamagedFile(
                f"this prompt does not say how its labels are scored ({error}); fetch it again"
            ) from error

    def to_json(self) -> Mapping[str, Any]:
        """What a prompt stores of it: nothing where it is what prompts without a record mean."""
        values: dict[str, Any] = {} if self.end else {"end": False}
        values |= {} if self.normalize == "sum" else {"normalize": self.normalize}
        values |= {} if self.calibration is None else {"calibration": self.calibration.to_json()}
        return {"version": VERSION, **values} if values else {}


# What prompts mean that say nothing.
AS_BEFORE = Scoring()


def scoring_of(prompt: Stored, normalize: str | None = None, calibrate: bool = True) -> Scoring:
    """How a prompt's labels are scored, as it was trained to unless a user wants it otherwise.

    Args:
        prompt: a stored prompt.
        normalize: "sum", "mean" or "first", which leaves a calibration out that was fitted on other scores; None is
            the prompt's own.
        calibrate: whether a stored calibration is used.
    """
    scoring = Scoring.of(prompt)
    if normalize is not None and normalize != scoring.normalize:
        scoring = dataclasses.replace(scoring, normalize=normalize, calibration=None)
    return scoring if calibrate else dataclasses.replace(scoring, calibration=None)
