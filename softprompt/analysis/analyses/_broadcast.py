"""One vector of a prompt, repeated: whether the others were needed (EPT, figure 4)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ...checks import require_different
from ...prompts.prompt import SoftPrompt
from ._base import Analysis, Values, short
from ._bench import Bench, refuse_none

# As in the figure.
LENGTHS = tuple(range(1, 11))
Split = Literal["validation", "test"]


def broadcast(
    prompt: SoftPrompt, lengths: Sequence[int], score: Callable[[SoftPrompt, Split], float]
) -> dict[str, Any]:
    """Test scores of the whole prompt and of one of its vectors, repeated to each length; and the vector's place.

    The vector is the one that scores most on the validation rows at the longest length, the first of equals. The test
    rows have no part in the choice. Of a deep prompt, a vector of the first layer stands alone.

    Args:
        prompt: of several vectors.
        lengths: how often the vector stands.
        score: of a prompt on a split, "validation" or "test".
    """

    def alone(place: int, length: int) -> SoftPrompt:
        return dataclasses.replace(prompt, vectors=prompt.vectors[place : place + 1], repeats=length, deep=None)

    chosen_by = [score(alone(place, max(lengths)), "validation") for place in range(len(prompt.vectors))]
    place = chosen_by.index(max(chosen_by))
    return {
        "vector": place,
        "validation": chosen_by[place],
        "whole": score(prompt, "test"),
        "lengths": list(lengths),
        "scores": [score(alone(place, length), "test") for length in lengths],
    }


def compute(bench: Bench) -> Values:
    """The scores of each prompt's best vector at each length."""
    lengths = tuple(bench.copies) or LENGTHS
    require_different("--copies", lengths)
    prompts = []
    for subject in bench.subjects:
        refuse_none(subject, "broadcast")
        copies = broadcast(
            subject.prompt,
            lengths,
            lambda prompt, split, subject=subject: bench.score(subject, prompt, split=split),
        )
        prompts.append({"prompt": subject.label, **copies})
    return {"prompts": prompts}


def draw(values: Values, figures: Any) -> Any:
    """The score over the number of copies; the whole prompt is a dashed line."""
    curves = {
        name: (p["lengths"], p["scores"], p["whole"]) for name, p in zip(short(values), values["prompts"], strict=True)
    }
    return figures.copies_figure(curves)


def rows(values: Values) -> list[dict[str, Any]]:
    """Scores of the whole and of the repeated vector."""
    return [
        {"prompt": p["prompt"], "whole": p["whole"], "vector": p["vector"]}
        | {f"x {length}": score for length, score in zip(p["lengths"], p["scores"], strict=True)}
        for p in values["prompts"]
    ]


BROADCAST = Analysis("one vector of a prompt, repeated to each length (EPT, figure 4)", compute, draw, rows)
