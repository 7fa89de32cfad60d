"""A report as tables and sentences."""

from collections.abc import Callable
from typing import Any

from .. import markdown
from ._against import Against
from ._report import Report
from ._seeds import TOGETHER
from ._spread import Spread

Row = dict[str, Any]


def tables(found: Report) -> dict[str, list[Row]]:
    """Title -> rows, for `markdown`: the settings, their comparisons, the causes."""
    shown = {"Without training, and trained, on the same test rows": _beside(found)} if found.untrained else {}
    shown["Test scores"] = [_spread_row(one) for one in found.spreads]
    shown["Failed seeds, and training"] = [_failure_row(one) for one in found.spreads]
    if found.comparisons:
        reference = found.comparisons[0].reference
        shown[f"Means against {reference}, over the same seeds"] = [_mean_row(one) for one in found.comparisons]
        shown[f"Standard deviations against {reference}"] = [_ratio_row(one) for one in found.comparisons]
    if found.causes:
        shown["Standard deviations by what varies"] = _cause_rows(found)
    return shown


def remarks(found: Report) -> list[str]:
    """What the sample can show, what the tables do not say by themselves, and the warnings."""
    lines = [_power_line(found), *(f"warning: {line}" for line in found.warnings)]
    if found.untrained:
        lines.insert(
            1,
            f"Without training, intervals are over test rows, and labels are scored as in {found.spreads[0].setting}. "
            "Scores of settings are means, with intervals over seeds.",
        )
    if found.causes:
        lines.insert(1, "Standard deviations by cause need not add up to the one together: causes act on each other.")
    return lines


def text(found: Report, show: Callable[[list[Row]], str] = markdown) -> str:
    """The whole report as Markdown."""
    parts = [f"# {title(found)}"]
    parts += [f"## {name}\n\n{show(rows)}" for name, rows in tables(found).items()]
    return "\n\n".join([*parts, "## Remarks", "\n".join(f"- {line}" for line in remarks(found))]) + "\n"


def title(found: Report) -> str:
    """One line: task, model, seeds, chance."""
    about = found.about
    what = " on ".join(str(about[name]) for name in ("task", "model") if about.get(name))
    chance = "" if found.chance is None else f", chance {found.chance:.3f}"
    return f"Stability{': ' if what else ''}{what}, {found.power.n} seeds{chance}"


def _spread_row(one: Spread) -> Row:
    return {
        "setting": one.setting,
        "n": one.n,
        "dropped": one.dropped,
        "mean": _number(one.mean),
        "mean 95 %": _interval(one.low, one.high),
        "std": _number(one.std),
        "std 95 %": _interval(one.std_low, one.std_high),
        "min": _number(one.min),
        "worst quarter": _number(one.worst_quarter),
        "median": _number(one.median),
        "quartiles": _interval(one.q25, one.q75),
    }


def _beside(found: Report) -> list[Row]:
    """What was not trained, and below it the settings with what they gain over it."""
    column = f"minus {found.gains[0].reference}"
    rows = []
    for line in found.untrained:
        name = line.name if line.draw is None else f"{line.name}, draw {line.draw + 1}"
        rows.append({"setting": name, "score": _number(line.score), "95 %": _interval(line.low, line.high), column: ""})
    for spread, gain in zip(found.spreads, found.gains, strict=True):
        over = f"{_number(gain.difference, sign=True)} ({_interval(gain.low, gain.high, sign=True)})"
        ends = _interval(spread.low, spread.high)
        rows.append({"setting": gain.setting, "score": _number(spread.mean), "95 %": ends, column: over})
    return rows


def _failure_row(one: Spread) -> Row:
    return {
        "setting": one.setting,
        "failed": _share(one.failed),
        "stuck": _share(one.stuck),
        "train score": _number(one.train_score),
        "train loss": _number(one.train_loss),
        "steps": "" if one.prompt_steps is None else f"{one.prompt_steps:.0f}",
    }


def _mean_row(one: Against) -> Row:
    return {
        "setting": one.setting,
        "pairs": one.n,
        "difference": _number(one.difference, sign=True),
        "95 %": _interval(one.low, one.high, sign=True),
        "wins / ties / losses": f"{one.wins} / {one.ties} / {one.losses}",
        "Wilcoxon p": _number(one.p),
        "Holm": _number(one.p_holm),
        "detectable": _number(one.detectable),
    }


def _ratio_row(one: Against) -> Row:
    return {
        "setting": one.setting,
        "pairs": one.n,
        "ratio": _number(one.ratio),
        "95 %": _interval(one.ratio_low, one.ratio_high),
        "Brown-Forsythe p": _number(one.p_ratio),
        "Holm": _number(one.p_ratio_holm),
        "verdict": _verdict(one),
    }


def _verdict(one: Against) -> str:
    if one.is_no_stability:
        return "no stability: the mean fell"
    if one.ratio_low is None or one.ratio_high is None:
        return "nothing to compare"
    if one.ratio_high < 1:
        return "smaller, but the mean may have fallen" if one.is_lower else "smaller"
    return "larger" if one.ratio_low > 1 else "not shown"


def _cause_rows(found: Report) -> list[Row]:
    rows = []
    for setting in found.arms:
        together = next(one for one in found.causes[TOGETHER] if one.setting == setting).std
        for source, spreads in found.causes.items():
            one = next(one for one in spreads if one.setting == setting)
            rows.append(
                {
                    "setting": setting,
                    "varied": source,
                    "n": one.n,
                    "mean": _number(one.mean),
                    "std": _number(one.std),
                    "95 %": _interval(one.std_low, one.std_high),
                    "of together": _number(one.std / together) if one.std is not None and together else "",
                    "failed": _share(one.failed),
                }
            )
    return rows


def _power_line(found: Report) -> str:
    power = found.power
    simulated = power.ratio_by_brown_forsythe
    made = "none at all" if simulated is None else f"{simulated:.2f}"
    return (
        f"With 80 % power at the 5 % level, {power.n} seeds an arm find a ratio of standard deviations of "
        f"{power.ratio:.2f} or less (1/x or more) by an F test of normal scores, and {made} by the Brown-Forsythe test "
        f"made here; a mean difference of {power.difference:.2f} standard deviations of the paired differences. A "
        f"halved deviation takes {power.seeds_for_half} seeds an arm at best, about 25 by Brown-Forsythe."
    )


def _number(value: float | None, *, sign: bool = False) -> str:
    return "" if value is None else f"{value:+.3f}" if sign else f"{value:.3f}"


def _interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    return "" if low is None or high is None else f"{_number(low, sign=sign)} .. {_number(high, sign=sign)}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
