"""The page: a verdict for each claim, and the numbers behind it; nothing but the results decides a character of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from softprompt.study.statistics import bootstrap
from softprompt.study.tables import markdown

from .arm import Arm
from .check import FEWEST, Check, verdict
from .claim import Claim
from .design import FIRST_SEED, FULL, RATE_SEEDS
from .results import Results, peak, score
from .run import rates_of
from .table import CLAIMS

FIGURES = "claims"
OUTCOMES = {"met": "yes", "refuted": "no", "open": "not decided"}


def page(results: Results, claims: Mapping[str, Claim] = CLAIMS) -> str:
    """The whole page as Markdown, with links to its figures in the folder `claims`."""
    judged = {name: claim.checks(results) for name, claim in claims.items()}
    parts = [_head(results), _summary(claims, judged)]
    parts += [_section(name, claim, judged[name], results) for name, claim in claims.items()]
    parts += [_protocol(results, claims), _not_run(results, claims)]
    return "\n\n".join(parts) + "\n"


def has_figure(results: Results, claim: Claim) -> bool:
    """Whether there is a run of the claim to draw."""
    arms = claim.arms(results.design, rates_of(results, claim))
    return claim.figure is not None and any(results.values(arm, score) for arm in arms)


def _head(results: Results) -> str:
    design = results.design
    told = (
        "What two papers say of soft prompts, tried on one small backbone and judged by rules that were written before "
        "the runs: Explosive Prompt Tuning (EPT) and PTP (EMNLP 2023). A claim that fails is reported as failing; "
        "nothing was tuned until it held. The rules of six claims were corrected after the runs, because they let pass "
        "more than the data say, or left out data or a part of the claim: norms, repetition, equal steps, learning "
        "rates, and PTP's two ([log](log.md), 2026-11-28). This page is written by `python -m experiments.claims` from its "
        "results, and a test compares the two."
    )
    seeds = f"{design.seeds} seeds (from {FIRST_SEED})"
    how = (
        f"`{design.model}`, {design.steps} steps of 16 rows, linear decay, the last step, {design.test_rows} rows "
        f"to test; {', '.join(design.tasks)}; {seeds}. The tasks are such as one repeated vector can learn at all in "
        "250 steps, by a pilot with another seed; on most others of the lab only ten vectors do. A small backbone is "
        "no "
        f"T5-base and {design.steps} steps are no 30,000: *does not hold here* means here."
    )
    floors = ", ".join(f"{task} {score:.3f}" for task, score in results.unprompted.items())
    learned = (
        "A run has *learned* its task if it got half of the way from the floor to the best run of the task; the "
        f"floor is the better of the frozen model without a prompt ({floors}) and the most frequent class."
    )
    warning = (
        ""
        if design.to_json() | {"seeds": 0} == FULL.to_json() | {"seeds": 0}
        else ("\n\n**This is a small run of the machinery (`--quick`, or a design of its own), not the study.**")
    )
    return f"# Claims\n\n{told}\n\n{how}\n\n{learned}{warning}"


def _summary(claims: Mapping[str, Claim], judged: Mapping[str, Sequence[Check]]) -> str:
    rows = [
        {
            "claim": f"[{claim.title}](#{name})",
            "verdict": verdict(judged[name]),
            "checks: yes / no / not decided": " / ".join(
                str(sum(check.outcome == kind for check in judged[name])) for kind in OUTCOMES
            ),
        }
        for name, claim in claims.items()
    ]
    rule = (
        f"Intervals are 95 % bootstrap intervals of the mean over pairs of task and seed; fewer than {FEWEST} pairs "
        "decide nothing. They treat the tasks as given and are not corrected for the number of checks, except where "
        "said; with a dozen pairs they are somewhat too narrow. *holds*: every check is met; *holds only if*: those "
        "under the conditions named; *does not hold here*: every check is refuted; else *not decided*."
    )
    return f"{markdown(rows)}\n\n{rule}"


def _section(name: str, claim: Claim, checks: Sequence[Check], results: Results) -> str:
    parts = [f'<a id="{name}"></a>\n\n## {claim.title}', f"Source: {claim.source}.", f"Rule: {claim.rule}"]
    parts.append(f"**Verdict: {verdict(checks)}.**")
    parts.append(markdown([_check_row(check) for check in checks]) if checks else "No run of this is in the results.")
    if has_figure(results, claim):
        parts.append(f"![{claim.title}]({FIGURES}/{name}.png)")
    rows = claim.rows(results) if claim.rows else _arm_rows(results, claim)
    if rows:
        parts.append(markdown(rows))
    others = claim.other_rows(results) if claim.other_rows else ()
    if others:
        parts.append(markdown(others))
    return "\n\n".join(parts)


def _check_row(check: Check) -> dict[str, Any]:
    return {
        "condition": check.condition,
        "measured in": check.quantity,
        "mean": number(check.mean),
        "95 %": "" if check.low is None or check.high is None else f"{number(check.low)} to {number(check.high)}",
        "n": check.n,
        "needed": check.needed,
        "met": OUTCOMES[check.outcome],
    }


def _arm_rows(results: Results, claim: Claim) -> list[dict[str, Any]]:
    """Score and norms of each arm of a claim that has a run."""
    arms = claim.arms(results.design, rates_of(results, claim))
    return [_arm_row(results, arm) for arm in arms if results.values(arm, score)]


def _arm_row(results: Results, arm: Arm) -> dict[str, Any]:
    scores = list(results.values(arm, score).values())
    low, high = bootstrap(scores) or (None, None)
    norms = {
        "first": results.values(arm, lambda record: record["norms"][0]),
        "largest": results.values(arm, peak),
        "last": results.values(arm, lambda record: record["norms"][-1]),
    }
    return {
        "setting": arm.title,
        "n": len(scores),
        "score": f"{sum(scores) / len(scores):.3f}",
        "95 %": "" if low is None or high is None else f"{low:.3f} to {high:.3f}",
        **{f"{name} norm": _median(list(found.values())) for name, found in norms.items()},
    }


def _protocol(results: Results, claims: Mapping[str, Claim]) -> str:
    rows = [
        {
            "setting": name,
            "own rate": "" if found["lr"] is None else f"{found['lr']:g}",
            "chosen by": found["source"],
            "at the edge": "yes" if found["edge"] else "",
            "tried": ", ".join(f"{float(lr):g} ({_mean(list(by.values()))})" for lr, by in _in_order(found["trials"])),
        }
        for name, found in sorted(results.rates.items())
        if found["lr"] is not None
    ]
    told = (
        "Norms are medians over runs, in token norms (mean norms of a word vector). Own learning rates come from the "
        f"confirmation study where it has them, else from validation rows and seed {RATE_SEEDS[0]} here, which is not "
        "reported, the grid growing until the best is not at its edge; in brackets the mean validation score. A run "
        "that was dropped scores as always answering the most frequent class."
    )
    return f"## Learning rates\n\n{told}" + (f"\n\n{markdown(rows)}" if rows else "")


def _not_run(results: Results, claims: Mapping[str, Claim]) -> str:
    lines = []
    for name, claim in claims.items():
        design = results.design
        settings = claim.settings(design)
        waiting = [setting.title for setting in settings if results.own_rate(setting) is None]
        if waiting:
            lines.append(f"- {name}: no learning rate chosen yet for {', '.join(waiting)}")
        arms = claim.arms(design, rates_of(results, claim))
        planned = len(arms) * len(design.tasks) * design.seeds
        there = sum(len(results.values(arm, score)) for arm in arms)
        if there < planned:
            lines.append(f"- {name}: {planned - there} of {planned} runs")
    kept = results.evidence.get("stability") or {}
    if "ptp-mean" in claims:
        lines += [f"- ptp: part `{part}` of the stability study" for part in ("confirm", "real") if part not in kept]
    if "equal-steps" in claims and "confirmation" not in results.evidence:
        lines.append("- equal-steps: the confirmation study, on other backbones and over more steps")
    lines.append(
        "- for EPT: other backbones and longer runs in any claim but that of equal steps, and the papers' own models"
    )
    return "## What was not run\n\n" + "\n".join(lines)


def number(value: float | None) -> str:
    """Three decimals with a sign; three digits of what is large."""
    return "" if value is None else f"{value:+.3f}" if abs(value) < 100 else f"{value:+.3g}"


def _median(values: Sequence[float]) -> str:
    import statistics

    return f"{statistics.median(values):.3g}" if values else ""


def _mean(values: Sequence[float | None]) -> str:
    known = [value or 0.0 for value in values]
    return f"{sum(known) / len(known):.3f}" if known else ""


def _in_order(trials: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(trials.items(), key=lambda one: float(one[0]))
