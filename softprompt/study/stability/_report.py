"""A report on the stability of some settings on one task."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import BadInput
from ..power import (
    LEVEL,
    POWER,
    detectable_difference,
    detectable_ratio,
    detectable_ratio_by_brown_forsythe,
    seeds_for_ratio,
)
from ._against import Against, against, corrected
from ._arm import Arm
from ._spread import Spread, spread
from ._untrained import Gain, Untrained, gains

Arms = Mapping[str, Arm]


@dataclass(frozen=True, kw_only=True)
class Power:
    """What a comparison of two arms of n seeds finds with 80 % power, two-sided at 5 %, where scores are normal.

    Args:
        n: seeds an arm, the fewest of any.
        ratio: the ratio of standard deviations, below 1, by an F test: the best that there is.
        ratio_by_brown_forsythe: by the test that is made; None if it finds none.
        difference: of the means, in standard deviations of the paired differences.
        seeds_for_half: seeds an arm at which the F test finds a halved standard deviation.
        level: of the tests.
        power: 0.8.
    """

    n: int
    ratio: float
    ratio_by_brown_forsythe: float | None
    difference: float
    seeds_for_half: int
    level: float = LEVEL
    power: float = POWER

    @classmethod
    def of(cls, n: int) -> "Power":
        """That of n seeds an arm."""
        return cls(
            n=n,
            ratio=detectable_ratio(n),
            ratio_by_brown_forsythe=detectable_ratio_by_brown_forsythe(n),
            difference=detectable_difference(n),
            seeds_for_half=seeds_for_ratio(0.5),
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """The stability of some settings on one task, the first being what the others are compared with.

    Args:
        about: what was run, plain values: task, model ...
        arms: the scores behind everything, by setting.
        chance: score of always answering the most frequent class; None if not known.
        ceiling: the best score of any run.
        spreads: of each setting.
        comparisons: of each setting but the first with the first.
        causes: by source of variance, each setting's spread where only that varies, and last where all do; empty where
            nothing was taken apart.
        cause_arms: the scores behind them.
        power: what so many seeds can show.
        warnings: what would be read wrongly without them.
        untrained: scores on the same test rows without training; empty where they are left out.
        gains: of each setting over the strongest of them.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    arms: Mapping[str, Arm]
    chance: float | None
    ceiling: float | None
    spreads: tuple[Spread, ...]
    comparisons: tuple[Against, ...]
    causes: Mapping[str, tuple[Spread, ...]]
    cause_arms: Mapping[str, Mapping[str, Arm]]
    power: Power
    warnings: tuple[str, ...]
    untrained: tuple[Untrained, ...] = ()
    gains: tuple[Gain, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite ratio, which JSON has no word for, is None."""
        return _plain({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


def report(
    arms: Arms,
    *,
    causes: Mapping[str, Arms] | None = None,
    about: Mapping[str, Any] | None = None,
    untrained: Sequence[Untrained] = (),
) -> Report:
    """What the scores of some settings say about their stability; the first setting is the reference.

    Args:
        arms: by setting.
        causes: by source of variance the arms in which it alone varies, and last those in which all do.
        about: plain values that are kept with the report.
        untrained: scores without training, on the test rows of the arms.

    Raises:
        BadInput: no setting, fewer than two seeds in one, or settings whose chance differs.
    """
    causes = causes or {}
    everything = [*arms.values(), *(arm for group in causes.values() for arm in group.values())]
    if not arms:
        raise BadInput("nothing to judge; give at least one setting")
    for arm in everything:
        if len(arm.seeds) < 2:
            raise BadInput(f"setting {arm.name!r} has {len(arm.seeds)} seeds; a spread needs at least 2")
    chances = {arm.chance for arm in everything if arm.chance is not None}
    if len(chances) > 1:
        raise BadInput(f"settings with chances of {_listed(chances)} are of other tasks or rows; judge them apart")
    ceiling = max((score for arm in everything for score in arm.scored), default=None)
    reference, *others = arms.values()
    spreads = tuple(spread(arm, ceiling) for arm in arms.values())
    comparisons = tuple(corrected([against(arm, reference) for arm in others]))
    return Report(
        about=about or {},
        arms=dict(arms),
        chance=next(iter(chances), None),
        ceiling=ceiling,
        spreads=spreads,
        comparisons=comparisons,
        causes={name: tuple(spread(arm, ceiling) for arm in group.values()) for name, group in causes.items()},
        cause_arms={name: dict(group) for name, group in causes.items()},
        power=Power.of(min(len(arm.seeds) for arm in arms.values())),
        warnings=tuple(_warnings(spreads, comparisons, next(iter(chances), None))),
        untrained=tuple(untrained),
        gains=gains(spreads, untrained),
    )


def _warnings(spreads: tuple[Spread, ...], comparisons: tuple[Against, ...], chance: float | None) -> Iterator[str]:
    for arm in spreads:
        yield from _of_spread(arm)
    first = spreads[0]
    if comparisons and chance is not None and first.mean is not None and first.mean <= chance:
        yield f"{first.setting}, the reference, is at chance ({first.mean:.3f}): it has no stability to compare"
    for pair in comparisons:
        yield from _of_pair(pair)


def _of_spread(arm: Spread) -> Iterator[str]:
    if arm.dropped:
        yield (
            f"{arm.setting}: {arm.dropped} of {arm.n} seeds have no score and are in no mean or deviation; "
            "they count as failed"
        )
    if arm.std == 0:
        yield f"{arm.setting}: all {arm.n - arm.dropped} scores are equal, so nothing can be said of spread"


def _of_pair(pair: Against) -> Iterator[str]:
    if pair.is_no_stability and pair.lost is not None and pair.ratio is not None:
        yield (
            f"{pair.setting}: its standard deviation is {pair.ratio:.2f} times that of {pair.reference}, but its "
            f"mean lost {min(pair.lost, 1):.0%} of the way above chance: that is no stability"
        )
    elif pair.is_lower and pair.is_smaller and pair.lost is not None:
        yield (
            f"{pair.setting}: its mean is lower by {pair.lost:.0%} of the way above chance, though not for sure: "
            "its smaller standard deviation may be no stability"
        )
    if pair.n > 1 and pair.ties == pair.n:
        yield f"{pair.setting}: every score equals that of {pair.reference}: the setting changed nothing here"
    if pair.unpaired:
        have = (
            "1 seed has no partner and is" if pair.unpaired == 1 else f"{pair.unpaired} seeds have no partner and are"
        )
        yield f"{pair.setting}: {have} left out of the comparison"


def _listed(values: set[float]) -> str:
    return " and ".join(f"{value:.3f}" for value in sorted(values))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
