"""Claims: EPT's hidden size does not matter; LayerNorm, a residual and nonlinearities lower its scores."""

from collections.abc import Callable, Sequence
from typing import Any

from .arm import EPT, Arm, Setting
from .check import Check, at_least, within
from .claim import Claim, Rates, both_rates, fixed
from .design import Design
from .results import Results, score

SAME, LOSS = 0.05, 0.02
ADDED = tuple(
    Setting("ept", (option,))
    for option in (
        ("layer_norm", True),
        ("residual", True),
        ("activation", "relu"),
        ("activation", "tanh"),
        ("activation", "sigmoid"),
    )
)


def sizes(design: Design) -> Sequence[Setting]:
    """EPT with each bottleneck size of the study."""
    return [Setting("ept", (("hidden", size),)) for size in design.hidden]


def arms_of_sizes(design: Design, rates: Rates) -> Sequence[Arm]:
    """EPT and its wider ones."""
    return both_rates([EPT, *sizes(design)])(design, rates)


def where_one_learned(results: Results, first: Arm | None, second: Arm | None) -> list[float]:
    """Differences of scores where at least one run learned its task. Two stuck runs agree and say nothing."""
    places = results.learned(first).keys() | results.learned(second).keys()
    ours, theirs = results.values(first, score), results.values(second, score)
    return [ours[cell] - theirs[cell] for cell in ours if cell in theirs and cell in places]


def size_checks(results: Results) -> Sequence[Check]:
    """Each size against h = 1."""
    return [
        within(f"{setting.title} at {rate}", "accuracy", where_one_learned(results, arm, results.arms(EPT)[rate]), SAME)
        for setting in sizes(results.design)
        for rate, arm in results.arms(setting).items()
    ]


def structure_checks(results: Results) -> Sequence[Check]:
    """EPT against EPT with each structure."""
    return [
        at_least(
            f"{setting.title} at {rate}", "accuracy", where_one_learned(results, results.arms(EPT)[rate], arm), LOSS
        )
        for setting in ADDED
        for rate, arm in results.arms(setting).items()
    ]


def drawn(settings: Callable[[Design], Sequence[Setting]]) -> Callable[[Results, Any], Any]:
    """Every run as a dot, EPT's first."""

    def figure(results: Results, plots: Any) -> Any:
        arms = {}
        for setting in (EPT, *settings(results.design)):
            what = setting.title.removeprefix("EPT ")
            for rate, arm in results.arms(setting).items():
                scores = list(results.values(arm, score).values())
                if scores:
                    arms[f"{what}\n{rate}"] = scores
        return plots.strip_figure(arms, title="one dot a task and seed") if arms else None

    return figure


HIDDEN_SIZE = Claim(
    title="EPT's hidden size does not matter",
    source="EPT, section 3.2, figures 5 and 12: 1 to 1,000 on five tasks, lr 0.3",
    rule="Test score minus that of hidden size 1 with the same task and seed, over pairs in which at least one run "
    "learned its task; two stuck runs agree and say nothing. The size does not matter if the whole interval lies "
    "within 0.05 of 0.",
    settings=lambda design: (EPT, *sizes(design)),
    arms=arms_of_sizes,
    checks=size_checks,
    figure=drawn(sizes),
)
STRUCTURES = Claim(
    title="LayerNorm, a residual and nonlinearities lower EPT's scores",
    source="EPT, section 5.5, figure 9: on five SuperGLUE tasks, lr 0.3",
    rule="EPT's test score minus that with the structure added, same task and seed, over pairs in which at least one "
    "run learned its task. Lowered if the mean is 0.02 or more and the interval is above 0.",
    settings=fixed((EPT, *ADDED)),
    arms=both_rates((EPT, *ADDED)),
    checks=structure_checks,
    figure=drawn(lambda design: ADDED),
)
