"""The README of every export: base model, task, method, scores with their spread over seeds, licence, how to load."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ..documents import in_markdown
from ..errors import SoftPromptError
from ..inference.scoring import Scoring
from ..interop.card import GREEDY, facts, front_matter, how_it_chooses, how_long_texts_are
from ..interop.recipes import where_it_is
from ..prompts.prompt import SoftPrompt
from ..run_layout import run_of
from ..store import read_prompt

# What training found out, and was not told.
OUTCOMES = ("best_step", "restarts")


@final
@dataclass(frozen=True)
class Spread:
    """Test scores of the prompts of one run that differ in their seeds only.

    Args:
        scores: one for each seed.
    """

    scores: Sequence[float]

    def __str__(self) -> str:
        """Give mean, deviation of the sample and range, as in "0.812, deviation 0.013 over 4 seeds (0.80 to 0.83)"."""
        mean = statistics.mean(self.scores)
        if len(self.scores) == 1:
            return f"{mean:.4g} from one seed; its spread over seeds is not known"
        deviation = statistics.stdev(self.scores)
        low, high = min(self.scores), max(self.scores)
        return f"{mean:.4g}, deviation {deviation:.2g} over {len(self.scores)} seeds ({low:.4g} to {high:.4g})"


def spread_of(prompt: SoftPrompt, source: "str | Path") -> "Spread | None":
    """The test scores of all prompts of the run that a prompt is stored in; None if it is in no run, or has no score.

    Args:
        prompt: the prompt.
        source: its folder, or that of its run.
    """
    run = run_of(Path(source))
    scores = [_score(prompt)]
    if run is not None:
        others = [_read(place) for place in sorted(run.glob("*/prompt"))]
        scores = [_score(other) for other in others if other is not None and _alike(other, prompt)]
    numbers = [score for score in scores if score is not None]
    return Spread(numbers) if numbers else None


def card(prompt: SoftPrompt, *, title: str, sentence: str, load: str, licence: str, spread: "Spread | None") -> str:
    """The text of a README.

    Args:
        prompt: what is exported.
        title: what the folder is.
        sentence: what the folder holds and needs, in plain text.
        load: Python that loads it, and is tested; {new_tokens} in it becomes the tokens of the longest answer, {greedy}
            what makes `generate` greedy.
        licence: an identifier of the hub, as "apache-2.0"; "other" where it is not known.
        spread: scores over seeds, or None.
    """
    name = prompt.provenance.backbone.name
    lines = [
        *front_matter(prompt, licence),
        f"# {title}",
        "",
        f"A soft prompt of {prompt.length} vectors for the frozen `{in_markdown(name)}`. {sentence}",
        "",
        *facts(prompt, licence, spread),
        "## Load",
        "",
        *where_it_is(name),
        f"```python\n{_filled(load, prompt)}\n```",
        *how_long_texts_are(prompt),
        *how_it_chooses(prompt),
        "",
    ]
    return "\n".join(lines)


def _filled(load: str, prompt: SoftPrompt) -> str:
    """The code of a README; `str.format` would read its braces."""
    longest = str(Scoring.of(prompt).max_new_tokens)
    return load.strip().replace("{new_tokens}", longest).replace("{greedy}", GREEDY)


def _score(prompt: SoftPrompt) -> "float | None":
    score = prompt.provenance.metrics.get("test", {}).get("score")
    return float(score) if isinstance(score, int | float) else None


def _alike(prompt: SoftPrompt, other: SoftPrompt) -> bool:
    """Whether two prompts differ in their seeds only, as far as their records tell."""
    settings = [
        (p.provenance.method, p.length, p.layers, {**p.provenance.training, **dict.fromkeys(OUTCOMES)})
        for p in (prompt, other)
    ]
    return settings[0] == settings[1]


def _read(place: Path) -> "SoftPrompt | None":
    try:
        return read_prompt(place)
    except SoftPromptError:
        return None
