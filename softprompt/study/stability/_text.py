"""A report as tables and sentences."""

from collections.abc import Callable
from typing import Any

from ...documents import in_markdown
from .. import markdown
from ._against import Against
from ._report import Report
from ._seeds import TOGETHER
from ._spread import Spread

Row = dict[str, Any]


def tables(report: Report) -> dict[str, list[Row]]:
    """Title -> rows, for `markdown`: the settings, their comparisons, the causes."""
    by_title = {"Without training, and trained, on the same test rows": _beside(report)} if report.untrained else {}
    by_title["Test scores"] = [_spread_row(spread) for spread in report.spreads]
    by_title["Failed seeds, and training"] = [_failure_row(spread) for spread in report.spreads]
    if report.comparisons:
        reference = report.comparisons[0].reference
        by_title[f"Means against {reference}, over the same seeds"] = [
            _mean_row(comparison) for comparison in report.comparisons
        ]
        by_title[f"Standard deviations against {reference}"] = [
            _ratio_row(comparison) for comparison in report.comparisons
        ]
    if report.causes:
        by_title["Standard deviations by what varies"] = _cause_rows(report)
    return by_title


def remarks(report: Report) -> list[str]:
    """What the sample can show, what the tables do not say by themselves, and the warnings."""
    lines = [_power_line(report), *(f"warning: {line}" for line in report.warnings)]
    if report.untrained:
        lines.insert(
            1,
            f"Without training, intervals are over test rows, and labels are scored as in {report.spreads[0].setting}. "
            "Scores of settings are means, with intervals over seeds.",
        )
    if report.causes:
        lines.insert(1, "Standard deviations by cause need not add up to the one together: causes act on each other.")
    return lines


def text(report: Report, show: Callable[[list[Row]], str] = markdown) -> str:
    """The whole report as Markdown."""
    parts = [f"# {in_markdown(title(report))}"]
    parts += [f"## {in_markdown(name)}\n\n{show(rows)}" for name, rows in tables(report).items()]
    return "\n\n".join([*parts, "## Remarks", "\n".join(f"- {in_markdown(line)}" for line in remarks(report))]) + "\n"


def title(report: Report) -> str:
    """One line: task, model, seeds, chance."""
    about = report.about
    what = " on ".join(str(about[name]) for name in ("task", "model") if about.get(name))
    chance = "" if report.chance is None else f", chance {report.chance:.3f}"
    return f"Stability{': ' if what else ''}{what}, {report.power.n} seeds{chance}"


def _spread_row(spread: Spread) -> Row:
    return {
        "setting": spread.setting,
        "n": spread.n,
        "dropped": spread.dropped,
        "mean": _number(spread.mean),
        "mean 95 %": _interval(spread.low, spread.high),
        "std": _number(spread.std),
        "std 95 %": _interval(spread.std_low, spread.std_high),
        "min": _number(spread.min),
        "worst quarter": _number(spread.worst_quarter),
        "median": _number(spread.median),
        "quartiles": _interval(spread.q25, spread.q75),
    }


def _beside(report: Report) -> list[Row]:
    """What was not trained, and below it the settings with what they gain over it."""
    column = f"minus {report.gains[0].reference}"
    rows = []
    for line in report.untrained:
        name = line.name if line.draw is None else f"{line.name}, draw {line.draw + 1}"
        rows.append({"setting": name, "score": _number(line.score), "95 %": _interval(line.low, line.high), column: ""})
    for spread, gain in zip(report.spreads, report.gains, strict=True):
        over = f"{_number(gain.difference, sign=True)} ({_interval(gain.low, gain.high, sign=True)})"
        ends = _interval(spread.low, spread.high)
        rows.append({"setting": gain.setting, "score": _number(spread.mean), "95 %": ends, column: over})
    return rows


def _failure_row(spread: Spread) -> Row:
    return {
        "setting": spread.setting,
        "failed": _share(spread.failed),
        "stuck": _share(spread.stuck),
        "train score": _number(spread.train_score),
        "train loss": _number(spread.train_loss),
        "steps": "" if spread.prompt_steps is None else f"{spread.prompt_steps:.0f}",
    }


def _mean_row(comparison: Against) -> Row:
    return {
        "setting": comparison.setting,
        "pairs": comparison.n,
        "difference": _number(comparison.difference, sign=True),
        "95 %": _interval(comparison.low, comparison.high, sign=True),
        "wins / ties / losses": f"{comparison.wins} / {comparison.ties} / {comparison.losses}",
        "Wilcoxon p": _number(comparison.p),
        "Holm": _number(comparison.p_holm),
        "detectable": _number(comparison.detectable),
    }


def _ratio_row(comparison: Against) -> Row:
    return {
        "setting": comparison.setting,
        "pairs": comparison.n,
        "ratio": _number(comparison.ratio),
        "95 %": _interval(comparison.ratio_low, comparison.ratio_high),
        "Brown-Forsythe p": _number(comparison.p_ratio),
        "Holm": _number(comparison.p_ratio_holm),
        "verdict": _verdict(comparison),
    }


def _verdict(comparison: Against) -> str:
    if comparison.is_no_stability:
        return "no stability: the mean fell"
    if comparison.ratio_low is None or comparison.ratio_high is None:
        return "nothing to compare"
    if comparison.is_smaller:
        return "smaller, but the mean may have fallen" if comparison.is_lower else "smaller"
    return "larger" if comparison.is_larger else "not shown"


def _cause_rows(report: Report) -> list[Row]:
    rows = []
    for setting in report.arms:
        together = next(spread for spread in report.causes[TOGETHER] if spread.setting == setting).std
        for source, spreads in report.causes.items():
            spread = next(spread for spread in spreads if spread.setting == setting)
            rows.append(
                {
                    "setting": setting,
                    "varied": source,
                    "n": spread.n,
                    "mean": _number(spread.mean),
                    "std": _number(spread.std),
                    "95 %": _interval(spread.std_low, spread.std_high),
                    "of together": _number(spread.std / together) if spread.std is not None and together else "",
                    "failed": _share(spread.failed),
                }
            )
    return rows


def _power_line(report: Report) -> str:
    power = report.power
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
