"""One claim: the statement, the runs that test it, and how it is decided."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .arm import Arm, Setting
from .check import Check
from .design import Design

if TYPE_CHECKING:
    from .results import Results

Rates = Mapping[Setting, float]
Rows = Sequence[dict[str, Any]]


def fixed(settings: Sequence[Setting]) -> Callable[[Design], Sequence[Setting]]:
    """These settings, whatever the design."""
    return lambda design: settings


def no_settings(design: Design) -> Sequence[Setting]:
    """No settings, for a claim that needs no learning rate of its own."""
    return ()


def nothing(design: Design, rates: Rates) -> Sequence[Arm]:
    """No runs, for a claim that is judged from the results of another study."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One entry of CLAIMS.

    Args:
        title: what is claimed, in a line.
        source: who says so, and where.
        rule: how it is decided, in words; written before the runs.
        checks: the decision, from the results.
        settings: whose own learning rates have to be chosen before.
        arms: what is trained, with every task and seed; given the own rates as far as they are known.
        probes: names in PROBES: what is measured of the trained prompts.
        figure: draws from the results with the module of figures; None where there is none.
        rows: of its table; None shows score and norms of the arms.
        other_rows: of a second table, from the results of other studies; None shows none.
    """

    title: str
    source: str
    rule: str
    checks: "Callable[[Results], Sequence[Check]]"
    settings: Callable[[Design], Sequence[Setting]] = no_settings
    arms: Callable[[Design, Rates], Sequence[Arm]] = nothing
    probes: tuple[str, ...] = ()
    figure: "Callable[[Results, Any], Any] | None" = None
    rows: "Callable[[Results], Rows] | None" = None
    other_rows: "Callable[[Results], Rows] | None" = None


def both_rates(settings: Sequence[Setting]) -> Callable[[Design, Rates], Sequence[Arm]]:
    """Arms of each setting at its own learning rate, as far as it is known, and at the papers', where that is tried."""

    def arms(design: Design, rates: Rates) -> Sequence[Arm]:
        searched = [setting.at(rates[setting]) for setting in settings if setting in rates]
        papers = [] if design.at_defaults else [setting.at_paper for setting in settings]
        return list(dict.fromkeys([*searched, *papers]))

    return arms
