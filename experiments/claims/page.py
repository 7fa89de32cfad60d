"""The page with a verdict for each claim, and the file of all its numbers; both follow from the results alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from softprompt.study.statistics import bootstrap
from softprompt.study.tables import markdown

from .arm import Arm
from .check import FAILS, FEWEST, HOLDS, ONLY_IF, OPEN, Check, verdict
from .claim import Claim
from .design import FIRST_SEED, FULL, RATE_SEEDS
from .real_model import MODEL, real_checks
from .results import Results, peak, score
from .run import rates_of
from .table import CLAIMS

FIGURES = "claims"
TABLES = "claims_tables.md"
OUTCOMES = {"met": "yes", "refuted": "no", "open": "not decided"}
# Conditions of one outcome that the page names.
SHOWN = 8


def page(results: Results, claims: Mapping[str, Claim] = CLAIMS) -> str:
    """The page as Markdown: one row a claim, and links to its figures in the folder `claims`."""
    judged = {name: claim.checks(results) for name, claim in claims.items()}
    real = {name: real_checks(name, claim, results) for name, claim in claims.items()}
    parts = [_head(results, judged), _summary(claims, judged, real)]
    parts += [_section(name, claim, results, judged[name], real.get(name, ())) for name, claim in claims.items()]
    return "\n\n".join([*parts, _not_run(results, claims)]) + "\n"


def tables(results: Results, claims: Mapping[str, Claim] = CLAIMS) -> str:
    """Every check of every claim, its scores and norms, and how the learning rates were chosen."""
    parts = ["# Claims of the papers: every check and its numbers"]
    parts += [_numbers(claim, results) for claim in claims.values()]
    return "\n\n".join([*parts, _protocol(results)]) + "\n"


def has_figure(results: Results, claim: Claim) -> bool:
    """Whether there is a run of the claim to draw."""
    arms = claim.arms(results.design, rates_of(results, claim))
    return claim.figure is not None and any(results.values(arm, score) for arm in arms)


def _head(results: Results, judged: Mapping[str, Sequence[Check]]) -> str:
    design = results.design
    warning = (
        ""
        if design.to_json() | {"seeds": 0} == FULL.to_json() | {"seeds": 0}
        else "\n\n**This is a small run of the machinery (`--quick`, or a design of its own), not the study.**"
    )
    return f"# Claims of the papers\n\n{_in_short(results, judged)}\n\n{_measured(results)}{warning}"


def _in_short(results: Results, judged: Mapping[str, Sequence[Check]]) -> str:
    """The question, the result, and how certain it is."""
    design = results.design
    kinds = [verdict(checks).partition(":")[0] for checks in judged.values()]
    outcome = (
        f"{kinds.count(HOLDS)} hold as stated, {kinds.count(ONLY_IF)} hold in part, "
        f"{kinds.count(FAILS)} do not hold here, {kinds.count(OPEN)} are not decided"
    )
    return (
        "- **Asked:** do the claims of two papers hold on built-in models, and on a real decoder? The papers are "
        "Explosive Prompt Tuning (EPT) and PTP (EMNLP 2023).\n"
        f"- **Result:** on the built-in models, with one part on a real encoder, of {len(judged)} claims {outcome}.\n"
        "- One claim is our own reading of a curve, and not the papers'.\n"
        "- The rules were written before the runs. Those of six claims were corrected afterwards, because they let "
        "pass more than the data say, or left out data: norms, repetition, equal steps, learning rates, and PTP's two "
        "([log](../log.md), 2026-11-28).\n"
        f"- **Certainty:** *does not hold here* means on these models and in {design.steps} steps; the papers have "
        "larger models, and EPT has 30,000 steps.\n"
        "- `python -m experiments.claims` writes this page, and each claim's rule and every number but those of "
        f"{MODEL} into "
        f"[{TABLES}](../../experiments/results/{TABLES})."
    )


def _measured(results: Results) -> str:
    design = results.design
    runs = (
        f"`{design.model}` is trained for {design.steps} steps of 16 rows with linear decay; the last step is tested "
        f"on {design.test_rows} rows. Tasks: {', '.join(design.tasks)}. Seeds: {design.seeds}, from {FIRST_SEED} on. A "
        "pilot with another seed chose tasks that one repeated vector can learn in 250 steps; most others of the lab "
        "are learned by ten vectors only."
    )
    floors = ", ".join(f"{task} {score:.3f}" for task, score in results.unprompted.items())
    learned = (
        "A run has *learned* its task if it got half of the way from the floor to the best run of the task. The "
        f"floor is the better of the frozen model without a prompt ({floors}) and the most frequent class."
    )
    return f"{runs}\n\n{learned}"


def _summary(
    claims: Mapping[str, Claim], judged: Mapping[str, Sequence[Check]], real: Mapping[str, Sequence[Check]]
) -> str:
    rows = [
        {
            "claim": f"[{claim.title}](#{name})",
            "built-in models, MiniLM": _counted(judged[name]),
            MODEL: _counted(real[name]) if real.get(name) else "not asked",
        }
        for name, claim in claims.items()
    ]
    rule = (
        f"In brackets: how many checks are met, refuted and not decided. Intervals are 95 % bootstrap intervals of the "
        f"mean over pairs of task and seed; with a dozen pairs they are somewhat too narrow, and fewer than {FEWEST} "
        "pairs decide nothing. *holds*: every check is met. *holds in part*: some are. *does not hold here*: every "
        f"check is refuted. *not decided*: everything else. {MODEL} is asked in the [study of a real language model]"
        "(real-lm.md), with other tasks, few rows and the loss over labels, and by runs with these rules on the task "
        "in brackets, `python -m experiments.claims --real` ([plan](../../experiments/real_lm/PLAN.md))."
    )
    return f"{markdown(rows, str)}\n\n{rule}"


def _counted(checks: Sequence[Check]) -> str:
    """The kind of a verdict, and its checks."""
    kind = verdict(checks).partition(":")[0].replace(ONLY_IF, "holds in part")
    return f"{kind} ({' / '.join(str(len(_conditions(checks, outcome))) for outcome in OUTCOMES)})"


def _conditions(checks: Sequence[Check], outcome: str) -> list[str]:
    return [check.condition for check in checks if check.outcome == outcome]


def _section(name: str, claim: Claim, results: Results, checks: Sequence[Check], real: Sequence[Check]) -> str:
    """What is claimed, and by whom; for what it holds; the figure; what a real model says."""
    parts = [f'<a id="{name}"></a>\n\n## {claim.title}', f"Source: {claim.source}.", _outcomes(checks)]
    if has_figure(results, claim):
        parts.append(f"![The figure of this claim]({FIGURES}/{name}.png)")
    if real:
        parts.append(f"On {MODEL} (k32: 32 rows of each class):\n\n{markdown([_check_row(check) for check in real])}")
    return "\n\n".join(part for part in parts if part)


def _outcomes(checks: Sequence[Check]) -> str:
    """The conditions with each outcome, the first of many."""
    lines = []
    for outcome, word in (("met", "Holds for"), ("refuted", "Refuted for"), ("open", "Not decided for")):
        named = _conditions(checks, outcome)
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        lines += [f"- **{word}:** {'; '.join(named[:SHOWN])}{more}"] if named else []
    return "\n".join(lines)


def _numbers(claim: Claim, results: Results) -> str:
    """The rule of a claim and its tables."""
    checks = claim.checks(results)
    parts = [f"## {claim.title}", f"Rule: {claim.rule}", f"**Verdict: {verdict(checks)}.**"]
    parts.append(markdown([_check_row(check) for check in checks]) if checks else "No run of this is in the results.")
    rows = claim.rows(results) if claim.rows else _arm_rows(results, claim)
    others = claim.other_rows(results) if claim.other_rows else ()
    return "\n\n".join([*parts, *(markdown(table) for table in (rows, others) if table)])


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
        **{f"{name} norm": _median(list(values.values())) for name, values in norms.items()},
    }


def _protocol(results: Results) -> str:
    rows = [
        {
            "setting": name,
            "own rate": "" if search["lr"] is None else f"{search['lr']:g}",
            "chosen by": search["source"],
            "at the edge": "yes" if search["edge"] else "",
            "tried": ", ".join(f"{float(lr):g} ({_mean(list(by.values()))})" for lr, by in _in_order(search["trials"])),
        }
        for name, search in sorted(results.rates.items())
        if search["lr"] is not None
    ]
    explanation = (
        "Norms are medians over runs, in token norms (mean norms of a word vector). A method's own learning rate comes "
        "from the confirmation study where it has one. Otherwise validation rows and seed "
        f"{RATE_SEEDS[0]} choose it; that seed is not reported, and the grid grows until the best rate is not at its "
        "edge. The mean validation score stands in brackets. A run that was dropped scores as always answering the "
        "most frequent class."
    )
    return f"## Learning rates\n\n{explanation}" + (f"\n\n{markdown(rows)}" if rows else "")


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
        finished = sum(len(results.values(arm, score)) for arm in arms)
        if finished < planned:
            lines.append(f"- {name}: {planned - finished} of {planned} runs")
    kept = results.evidence.get("stability") or {}
    if "ptp-mean" in claims:
        lines += [f"- ptp: part `{part}` of the stability study" for part in ("confirm", "real") if part not in kept]
    if "equal-steps" in claims and "confirmation" not in results.evidence:
        lines.append("- equal-steps: the confirmation study, on other backbones and over more steps")
    lines.append(
        "- for EPT: other backbones and longer runs, except in the claim of equal steps; and the papers' own models"
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
    return sorted(trials.items(), key=lambda item: float(item[0]))
