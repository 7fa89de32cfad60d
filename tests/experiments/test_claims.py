"""The claims: their rules, that a killed study goes on, and that the committed page is what the results say."""

import dataclasses
import importlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from experiments.claims import (
    CLAIMS,
    FULL,
    TABLES,
    Arm,
    Check,
    Design,
    Results,
    Setting,
    at_least,
    page,
    read_results,
    run,
    tables,
    verdict,
    within,
    write,
)
from experiments.claims.__main__ import main
from experiments.claims.drift import crossing
from experiments.claims.evidence import take_evidence
from experiments.claims.perturbation import comparisons, mean_checks, spread_checks, spread_rows, without_ptp
from experiments.claims.probe import Bench, copies
from experiments.claims.real_model import REAL_CHECKS, real_evidence
from experiments.claims.results import peak, score
from experiments.common.rates import best_rate
from experiments.stability import study as stability
from experiments.which_method import results as which_method
from softprompt.analysis.drift import drift
from softprompt.backbones import from_model
from softprompt.data import Examples, Ragged
from softprompt.errors import BadInput, DamagedFile
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.study import kept_prompt, run_all
from softprompt.training import Interrupted

# The package gives its function under the name of this module.
claims_run = importlib.import_module("experiments.claims.run")
REPOSITORY = Path(__file__).parents[2]
COMMITTED = REPOSITORY / "experiments/results/claims.json"
TINY = Design(
    tasks=("lab/color",),
    seeds=2,
    steps=2,
    train_rows=16,
    validation_rows=8,
    test_rows=8,
    first_rates=(0.3,),
    ladder=(0.3,),
    rates=(0.3,),
    radii=(0.1, 10.0),
    hidden=(4,),
    repeats=(1, 10),
)
SOME = {name: CLAIMS[name] for name in ("similarity", "repetition", "drift")}


def check(outcome, condition="c"):
    return Check(condition=condition, quantity="", n=6, mean=0.0, low=0.0, high=0.0, needed="", outcome=outcome)


@pytest.mark.parametrize(
    ("values", "margin", "outcome"),
    [
        ([0.1] * 6, 0.02, "met"),
        ([0.1] * 5, 0.02, "open"),
        ([0.01] * 6, 0.02, "refuted"),
        ([-0.1] * 6, 0.02, "refuted"),
        ([-0.1, 0.2] * 3, 0.02, "open"),
        ([-0.1] * 6, 0.0, "refuted"),
        ([], 0.02, "open"),
    ],
)
def test_a_mean_is_large_enough_where_its_interval_is_above_0_and_it_reaches_the_margin(values, margin, outcome):
    found = at_least("c", "q", values, margin)
    assert found.outcome == outcome
    assert found.n == len(values)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [([0.0] * 6, "met"), ([0.01, -0.01] * 3, "met"), ([0.1] * 6, "refuted"), ([-0.1] * 6, "refuted"),
     ([0.1, -0.1] * 3, "open"), ([0.0] * 5, "open"), ([0.04, 0.04, 0.04, 0.06, 0.06, 0.04], "open")],
)  # fmt: skip
def test_a_mean_is_small_enough_where_its_whole_interval_lies_within_the_margin(values, outcome):
    assert within("c", "q", values, 0.05).outcome == outcome


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["met", "met"], "holds"),
        (["met", "refuted"], "holds only if: 0"),
        (["met", "open", "met"], "holds only if: 0; 2"),
        (["refuted", "refuted"], "does not hold here"),
        (["refuted", "open"], "not decided"),
        (["open"], "not decided"),
        ([], "not decided"),
    ],
)
def test_a_verdict_says_what_the_checks_say_together(outcomes, expected):
    assert verdict([check(outcome, str(place)) for place, outcome in enumerate(outcomes)]) == expected


def test_a_plateau_of_learning_rates_is_taken_in_its_middle():
    assert best_rate({0.03: 0.5, 0.1: 0.9, 0.3: 0.9, 1.0: 0.9}) == 0.3
    assert best_rate({0.03: 0.5, 0.1: 0.9, 0.3: 0.8}) == 0.1


def test_the_crossing_is_where_a_power_law_is_1():
    radii = (0.1, 1.0, 10.0)
    # moved = 2 / r is 1 at r = 2.
    assert crossing(radii, [2 / r for r in radii]) == pytest.approx(math.log10(2))
    assert crossing(radii, [0.5, 0.4, 0.3]) is None


def record(value, norms=(1.0, 2.0), **more):
    return {"run": "x", "score": value, "validation": value, "majority": 0.5, "norms": list(norms), **more}


def planted(design, values):
    """Results in which each (arm) has, at every task and seed, the record that a function gives."""
    found = Results(design=design)
    for arm, make in values.items():
        for task in design.tasks:
            for seed in design.seed_numbers:
                found.keep(task, arm, seed, make(seed))
    return found


PLANTED = dataclasses.replace(TINY, tasks=("lab/color",), seeds=6)


def test_planted_differences_are_found_and_told_from_none():
    """EPT* 0.1 above prompt tuning at both rates, EPT equal to it."""
    design = PLANTED
    arms = {Setting("prompt-tuning"): 0.7, Setting("ept"): 0.7, Setting("ept-star"): 0.8}
    found = planted(design, {setting.at_paper: lambda seed, v=v: record(v) for setting, v in arms.items()})
    for setting in arms:
        found.rates[setting.name] = {"lr": 0.3, "source": "planted", "edge": False, "trials": {}}
    checks = CLAIMS["equal-steps"].checks(found)
    assert [one.outcome for one in checks] == ["refuted", "refuted", "met", "met"]
    assert [one.mean for one in checks] == pytest.approx([0.0, 0.0, 0.1, 0.1])
    assert verdict(checks) == "holds only if: EPT\\*, both at their own rates; EPT\\*, both at lr 0.3"


def test_an_explosion_is_told_against_prompt_tuning_and_the_own_start():
    found = planted(
        PLANTED,
        {
            Setting("prompt-tuning").at_paper: lambda seed: record(0.7, (1.0, 2.0)),
            Setting("p-tuning").at_paper: lambda seed: record(0.7, (0.1, 200.0, 20.0)),
            Setting("residual").at_paper: lambda seed: record(0.7, (30.0, 60.0)),
        },
    )
    checks = {one.condition: one for one in CLAIMS["norms"].checks(found)}
    assert checks["P-Tuning at lr 0.3"].mean == pytest.approx(2.0)
    assert checks["P-Tuning at lr 0.3"].outcome == "met"
    assert checks["residual at lr 0.3"].mean == pytest.approx(math.log10(2))
    assert checks["residual at lr 0.3"].outcome == "refuted"
    assert checks["EPT at lr 0.3"].n == 0
    # From 1 to 2, a third of a power of ten: prompt tuning does not explode, and that is a check of its own.
    assert checks["not so in prompt tuning at lr 0.3"].mean == pytest.approx(1 - math.log10(2))
    assert checks["not so in prompt tuning at lr 0.3"].outcome == "met"


def test_prompt_tuning_that_explodes_as_well_refutes_a_part_of_the_claim():
    grown = planted(PLANTED, {Setting("prompt-tuning").at_paper: lambda seed: record(0.7, (0.01, 0.11))})
    checks = {one.condition: one for one in CLAIMS["norms"].checks(grown)}
    assert checks["not so in prompt tuning at lr 0.3"].outcome == "refuted"


RATES = dataclasses.replace(TINY, seeds=6, rates=(0.03, 0.3))


def over_rates(**scores):
    """The checks of learning rates where each method has, at the rates 0.03 and 0.3, these scores at every seed."""
    arms = {
        Setting(name).at(lr): v for name, values in scores.items() for lr, v in zip((0.03, 0.3), values, strict=True)
    }
    found = planted(RATES, {arm: lambda seed, v=v: record(v) for arm, v in arms.items()})
    return {one.condition: one for one in CLAIMS["learning-rates"].checks(found)}


def test_a_setting_that_learns_at_no_rate_is_not_robust_to_it():
    """EPT stays at the majority class of 0.5 at both rates: its range of 0 says nothing."""
    stuck = over_rates(**{"prompt-tuning": (0.6, 1.0), "ept": (0.5, 0.5), "ept-star": (0.9, 1.0)})
    assert (stuck["EPT, narrower range over rates"].n, stuck["EPT, narrower range over rates"].outcome) == (0, "open")
    learned = stuck["EPT\\*, narrower range over rates"]
    assert (learned.n, learned.outcome) == (6, "met")
    assert learned.mean == pytest.approx(0.3)


def test_a_narrower_range_beside_a_mean_that_fell_towards_the_floor_is_refuted():
    """EPT learns, just so and at both rates: its range is narrower by 0.05, its mean lost 0.17 of 0.4."""
    fallen = over_rates(**{"prompt-tuning": (0.85, 1.0), "ept": (0.76, 0.76), "ept-star": (0.9, 0.95)})
    assert fallen["EPT, narrower range over rates"].mean == pytest.approx(0.15)
    assert fallen["EPT, narrower range over rates"].outcome == "refuted"
    assert fallen["EPT\\*, narrower range over rates"].outcome == "met"


def test_two_stuck_runs_say_nothing_about_a_structure():
    base, wide = Setting("ept").at_paper, Setting("ept", (("hidden", 4),)).at_paper
    found = planted(PLANTED, {base: lambda seed: record(0.5), wide: lambda seed: record(0.5)})
    found.keep("lab/color", Setting("prompt-tuning").at_paper, 3000, record(1.0))
    assert CLAIMS["hidden-size"].checks(found)[1].n == 0
    learned = planted(PLANTED, {base: lambda seed: record(0.5 + (seed % 2) / 2), wide: lambda seed: record(0.5)})
    assert CLAIMS["hidden-size"].checks(learned)[1].n == 3


def test_a_run_that_answers_no_better_than_the_frozen_model_has_learned_nothing():
    arm, other = Setting("ept").at_paper, Setting("prompt-tuning").at_paper
    found = planted(PLANTED, {arm: lambda seed: record(0.83), other: lambda seed: record(1.0)})
    assert len(found.learned(arm)) == 6
    found.unprompted["lab/color"] = 0.8
    assert found.floor("lab/color") == 0.8
    assert found.learned(arm) == {}
    assert len(found.learned(other)) == 6


def test_what_one_vector_keeps_is_a_share_of_the_way_above_the_floor():
    """Of the way from 0.8 to 1.0 a vector of P-Tuning keeps all, one of prompt tuning half."""
    kept = {"p-tuning": 1.0, "prompt-tuning": 0.9}
    arms = {Setting(name).at_paper: value for name, value in kept.items()}
    found = planted(
        PLANTED, {arm: lambda seed, v=v: record(1.0, copies={"whole": 1.0, "10": v}) for arm, v in arms.items()}
    )
    found.unprompted["lab/color"] = 0.8
    checks = {one.condition: one for one in CLAIMS["repetition"].checks(found)}
    assert checks["P-Tuning at lr 0.3"].mean == pytest.approx(0.1)
    assert checks["P-Tuning at lr 0.3"].outcome == "met"
    assert checks["not so in prompt tuning at lr 0.3"].mean == pytest.approx(0.4)
    assert checks["residual at lr 0.3"].n == 0


def test_the_vector_that_is_repeated_is_chosen_on_validation_rows_alone(tiny_t5):
    """Vectors 0 to 3; validation prefers 2, and 3 as much: the first is taken, though 0 is best on the test rows."""
    scores = {"validation": [0.1, 0.2, 0.9, 0.9], "test": [1.0, 0.5, 0.3, 0.4]}
    asked = []

    class Planted(Bench):
        def score(self, prompt, task, split="test"):
            if len(prompt.vectors) > 1:
                return 0.95
            asked.append((split, prompt.repeats))
            return scores[split][int(prompt.vectors[0, 0])] * prompt.repeats / 10

    vectors = torch.arange(4.0)[:, None].repeat(1, 16)
    prompt = SoftPrompt(vectors, Provenance("x", from_model(*tiny_t5()).identity()))
    found = copies(Planted(TINY), prompt, "lab/color", Setting("p-tuning").at_paper, 3000)
    assert found == {"vector": 2, "validation": 0.9, "whole": 0.95, "1": 0.03, "10": 0.3}
    assert asked == [("validation", 10)] * 4 + [("test", 1), ("test", 10)]


def test_a_dropped_run_scores_as_the_most_frequent_class():
    assert score(record(None)) == 0.5
    assert peak(record(None, (1.0, None, 3.0, 2.0))) == 3.0


STABILITY = {
    "lab/color": {
        "nothing": [0.5 + 0.02 * n for n in range(8)],
        "rn-emb:sigma=0.3": [0.7 + 0.02 * n for n in range(8)],
        "adv-emb": [0.6] * 4 + [0.61] * 4,
        "restarts 3": [0.99] * 8,
        "deep, rn-emb": [0.1] * 8,
    }
}


def stability_file(folder, part="confirm", values=STABILITY):
    cells = {
        f"{task}|{name}": {str(s): {"score": v, "majority": 0.4} for s, v in enumerate(scores)}
        for task, settings in values.items()
        for name, scores in settings.items()
    }
    stability.FILE.write(stability.path_of(part, folder), {"cells": cells})


def test_ptp_is_judged_from_the_stability_study(tmp_path):
    """What is 0.2 above nothing at every seed raises the mean and not the spread; what hardly varies lowers it."""
    stability_file(tmp_path)
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    means = {one.condition: one for one in mean_checks(found)}
    # Restarts are no regulariser, and a deep prompt has no deep one to be held against here.
    assert list(means) == ["adv-emb on lab/color", "rn-emb:sigma=0.3 on lab/color"]
    assert means["rn-emb:sigma=0.3 on lab/color"].mean == pytest.approx(0.2)
    assert means["rn-emb:sigma=0.3 on lab/color"].outcome == "met"
    spreads = {one.condition: one.outcome for one in spread_checks(found)}
    assert spreads == {"rn-emb:sigma=0.3 on lab/color": "refuted", "adv-emb on lab/color": "met"}
    assert "[PTP lowers the spread over seeds](#ptp-spread) | holds in part (1 / 1 / 0) | not asked |" in page(found)
    assert "- **Holds for:** adv-emb on lab/color\n- **Refuted for:** rn-emb:sigma=0.3 on lab/color" in page(found)


def real_file(folder, arm, scores, norms, size="k32"):
    records = [
        {"arm": arm, "seed": seed, "test": score, "token_norms": norm, "majority": 0.5}
        for seed, (score, norm) in enumerate(zip(scores, norms, strict=True))
    ]
    place = folder / "real_lm_small"
    place.mkdir(exist_ok=True)
    values = {"format": 1, "task": "glue/sst2", "size": size, "records": records}
    (place / f"{size}-{arm}.json").write_text(json.dumps(values))


def test_the_real_model_is_asked_with_the_same_rules(tmp_path):
    """One vector 0.1 above ten random ones with twenty times their norm, and noise that halves the spread."""
    scores = [0.60 + 0.02 * seed for seed in range(8)]
    real_file(tmp_path, "pt", scores, [1.0] * 8)
    real_file(tmp_path, "ept-star", [score + 0.1 for score in scores], [20.0] * 8)
    real_file(tmp_path, "rn", [0.67 + 0.3 * (score - 0.67) for score in scores], [1.0] * 8)
    # The frozen scores and the loss over tokens are not asked.
    real_file(tmp_path, "pt-tokens", scores, [1.0] * 8)
    real_file(tmp_path, "majority", [0.5], [None], size="frozen")
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    checks = {name: [(one.n, one.outcome) for one in check(found)] for name, check in REAL_CHECKS.items()}
    assert checks == {
        "norms": [(8, "met")], "equal-steps": [(8, "met")], "ptp-mean": [(8, "open")], "ptp-spread": [(8, "met")],
    }  # fmt: skip
    (better,) = REAL_CHECKS["equal-steps"](found)
    assert better.mean == pytest.approx(0.1)
    assert list(found.evidence["real_lm"]["glue/sst2 k32"]) == ["EPT*", "prompt tuning", "prompt tuning, rn-emb"]
    assert "(#equal-steps) | not decided (0 / 0 / 4) | holds (1 / 0 / 0) |" in page(found)


def test_the_committed_page_has_the_committed_results_of_the_real_model():
    assert read_results(COMMITTED).evidence["real_lm"] == real_evidence(COMMITTED.parent)


def test_a_spread_is_smaller_only_where_holms_p_says_so_too(tmp_path):
    """A ratio with an interval below 1 whose p is above 0.05; and one whose p is, until it is one of three settings."""
    nothing = [0.5 + 0.02 * n for n in range(8)]
    closer = [0.57 + 0.88 * (score - 0.57) for score in nothing]
    halved = [0.57 + 0.45 * (score - 0.57) for score in nothing]
    spreads = {}
    for name, settings in {
        "weak": {"ptp-rn": closer}, "alone": {"ptp-rn": halved},
        "of three": {"ptp-rn": halved, "ptp-adv": closer, "rn-emb": closer},
    }.items():  # fmt: skip
        stability_file(tmp_path, values={"lab/color": {"nothing": nothing, **settings}})
        found = Results(design=TINY)
        take_evidence(found, tmp_path)
        spreads[name] = {one.condition: one for one in spread_checks(found)}["ptp-rn on lab/color"]
    assert all(one.high is not None and one.high < 1 for one in spreads.values())
    assert {name: one.outcome == "met" for name, one in spreads.items()} == {
        "weak": False, "alone": True, "of three": False,
    }  # fmt: skip


def test_settings_held_against_different_references_are_corrected_together(tmp_path):
    """Each of two is above its own reference at p = 0.0078: by the number of settings of the task it is 0.0156."""
    scores = {"nothing": 0.5, "deep": 0.6, "ptp-rn": 0.7, "deep, ptp-rn": 0.8}
    values = {name: [mean + 0.01 * n for n in range(8)] for name, mean in scores.items()}
    stability_file(tmp_path, values={"lab/color": values})
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    assert [one.p_holm for _, _, one in comparisons(found)] == pytest.approx([2 / 128, 2 / 128])


def test_both_directions_of_a_spread_are_counted(tmp_path):
    stability_file(
        tmp_path,
        values={
            "lab/color": {
                "nothing": [0.5 + 0.02 * n for n in range(8)],
                "ptp-rn": [0.4 + 0.08 * n for n in range(8)],
                "ptp-adv": [0.6] * 4 + [0.61] * 4,
            }
        },
    )
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    (row,) = spread_rows(found)
    assert row == {
        "runs": "confirm, lab/color", "seeds": 8, "settings": 2, "narrower / wider": "1 / 1",
        "narrower / wider, by interval": "1 / 1", "narrower / wider, Holm p below 0.05": "1 / 1",
    }  # fmt: skip


def test_a_setting_of_ptp_is_held_against_the_same_without_its_regularizer():
    named = {
        "rn-emb:sigma=0.1,alpha=0.3": "nothing",
        "ptp-adv": "nothing",
        "deep, ptp-rn": "deep",
        "rms units, lr 0.3, ptp-rn": "rms units, lr 0.3",
        "restarts 3, adv-emb:radius=1.0,alpha=0.1": "restarts 3",
        **dict.fromkeys(("restarts 3", "scaled, restarts 8", "nothing", "deep", "r-drop")),
    }
    assert {name: without_ptp(name) for name in named} == named


def test_units_and_depth_are_compared_with_themselves(tmp_path):
    scores = {"nothing": [0.5] * 8, "deep": [0.7] * 8, "ptp-rn": [0.6] * 8, "deep, ptp-rn": [0.6] * 8}
    stability_file(tmp_path, values={"lab/color": scores})
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    means = {one.condition: one.mean for one in mean_checks(found)}
    assert means == {
        "ptp-rn on lab/color": pytest.approx(0.1), "deep, ptp-rn on lab/color": pytest.approx(-0.1),
    }  # fmt: skip


@pytest.mark.parametrize("content", ["[", "[]", '{"lab/color": {"nothing": {"0": {"majority": 0.5}}}}'])
def test_damaged_evidence_is_named(tmp_path, content):
    (tmp_path / "stability_confirm.json").write_text(content)
    with pytest.raises(DamagedFile, match=r"stability_confirm\.json"):
        take_evidence(Results(design=TINY), tmp_path)


def confirmed_file(folder, cells):
    """A confirmation study's results: "part/model/task/method" -> scores of seeds from 2000, None of dropped runs."""
    values = {
        key: {
            str(2000 + n): {
                **dict.fromkeys(which_method.NUMBERS),
                "score": v,
                "majority": 0.5,
                "steps": 40,
                "lr": 0.1,
                "status": "finished",
            }
            for n, v in enumerate(scores)
        }
        for key, scores in cells.items()
    }
    which_method.FILE.write(folder / "confirm.json", {"cells": values, "rates": {}})


def test_equal_steps_are_judged_on_the_other_backbones_of_the_confirmation_study(tmp_path):
    cells = {f"real/other/glue/{task}/{name}": [v] * 3 for task in ("sst2", "rte") for name, v in
             {"prompt-tuning": 0.7, "ept": 0.8, "head-only": 0.75, "scaled": 1.0}.items()}  # fmt: skip
    cells |= {f"size/wide/lab/color/{name}": scores for name, scores in
              {"prompt-tuning": [0.9] * 6, "ept-star": [0.6] * 5 + [None], "full": [1.0] * 6}.items()}  # fmt: skip
    confirmed_file(tmp_path, cells)
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    checks = {one.condition: one for one in CLAIMS["equal-steps"].checks(found) if one.n}
    assert {name: one.outcome for name, one in checks.items()} == {
        "EPT on other, 40 steps (real)": "met", "EPT\\* on wide, 40 steps (size)": "refuted",
    }  # fmt: skip
    assert checks["EPT on other, 40 steps (real)"].mean == pytest.approx(0.1)
    # A dropped run counts as the most frequent class: (5 x 0.3 + 0.4) / 6.
    assert checks["EPT\\* on wide, 40 steps (size)"].mean == pytest.approx(-1.9 / 6)
    row = "| other, 40 steps (real) | EPT | 6 | +0.100 (+0.100 to +0.100; 6) | +0.050 (+0.050 to +0.050; 6) |"
    assert row in tables(found)
    assert "equal-steps: the confirmation study" not in page(found)
    assert "equal-steps: the confirmation study" in page(Results(design=TINY))


@pytest.mark.parametrize("cells", [{"core/x": {}, "a": {"1": {}}}, {"core/m/lab/t/ept": {"2000": {"score": 1}}}, [1]])
def test_a_damaged_confirmation_is_named(tmp_path, cells):
    (tmp_path / "confirm.json").write_text(json.dumps({"cells": cells}))
    with pytest.raises(DamagedFile, match=r"confirm\.json"):
        take_evidence(Results(design=TINY), tmp_path)


def test_learning_rates_come_from_the_confirmation_study_where_it_has_them(tmp_path):
    rates = {"ept": {"chosen": 0.7, "edge": True, "steps": 2}, "ept-star": {"chosen": None, "edge": False, "steps": 2}}
    values = {"cells": {}, "rates": {TINY.model: rates, "other": {"residual": {}}}}
    which_method.FILE.write(tmp_path / "confirm.json", values)
    found = Results(design=TINY)
    take_evidence(found, tmp_path)
    assert {name: one["lr"] for name, one in found.rates.items()} == {"ept": 0.7}
    assert found.rates["ept"]["edge"]
    # Of another number of steps it is another rate.
    other = Results(design=dataclasses.replace(TINY, steps=3))
    take_evidence(other, tmp_path)
    assert other.rates == {}


class TestDrift:
    def test_equals_the_states_that_transformers_gives(self, tiny_t5):
        """Against output_hidden_states; the last of those is behind the final norm, so one layer is compared."""
        backbone = from_model(*tiny_t5())
        prompt = SoftPrompt(torch.randn(2, 16), Provenance("x", backbone.identity()), repeats=2)
        rows = [[5, 6, 7, 1], [8, 9, 1]]
        flat = torch.tensor([token for row in rows for token in row])
        texts = Examples(Ragged(flat, torch.tensor([0, 4, 7])), None, [])
        found = drift(backbone, prompt, texts)
        prompt_batch = PromptBatch.of(prompt)
        firsts = []
        for row in rows:
            batch = TextBatch(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool), torch.zeros(1).long())
            embeds = torch.cat([prompt_batch.vectors[batch.owner], backbone.embeddings(batch.ids)], 1)
            firsts.append(backbone.stack(inputs_embeds=embeds, output_hidden_states=True).hidden_states[1][0, :4])
        states, vectors = torch.stack(firsts), prompt.expanded()
        assert len(found) == 2
        moved = ((states - vectors).norm(dim=-1) / vectors.norm(dim=-1)).mean()
        assert found[0].moved == pytest.approx(moved.item(), rel=1e-5)
        varies = ((states - states.mean(0)).square().sum() / states.square().sum()).sqrt()
        assert found[0].varies == pytest.approx(varies.item(), rel=1e-4)
        assert found[0].kept == pytest.approx(
            torch.cosine_similarity(states, vectors[None], -1).mean().item(), abs=1e-5
        )

    def test_refuses_what_has_no_such_positions(self, tiny_t5):
        t5 = from_model(*tiny_t5())
        texts = Examples(Ragged(torch.tensor([5, 1]), torch.tensor([0, 2])), None, [])
        with pytest.raises(BadInput, match="ordinary prompt"):
            drift(t5, SoftPrompt(torch.empty(0, 16), Provenance("x", t5.identity())), texts)
        empty = Examples(Ragged(torch.tensor([], dtype=torch.long), torch.tensor([0])), None, [])
        with pytest.raises(BadInput, match="measured on texts"):
            drift(t5, SoftPrompt(torch.ones(1, 16), Provenance("x", t5.identity())), empty)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Three claims on a built-in backbone, two steps a run, never stopped."""
    folder = tmp_path_factory.mktemp("claims")
    found = run(folder / "claims.json", store=folder / "store", design=TINY, claims=SOME, progress=False)
    return folder, found


def test_the_file_holds_what_was_found(studied):
    folder, found = studied
    stored = read_results(folder / "claims.json")
    assert stored == found
    arm = Setting("prompt-tuning").at_paper
    one = stored.record("lab/color", arm, 3000)
    assert one is not None
    assert set(one["copies"]) == {"vector", "validation", "whole", "1", "10"}
    assert len(one["norms"]) == len(TINY.norm_steps)
    assert one["cosines"]["start"] == pytest.approx(0, abs=0.2)


def test_step_0_of_the_cosines_is_the_prompt_before_training(studied):
    """An untrained P-Tuning MLP gives vectors that are alike already."""
    _, found = studied
    one = found.record("lab/color", Setting("p-tuning").at_paper, 3000)
    assert one["cosines"]["start"] > 0.8
    assert one["cosines"]["start matrix"][0][0] == 1.0


def test_nothing_is_trained_again_though_the_store_is_lost(studied, tmp_path, monkeypatch):
    folder, found = studied
    shutil.copy(folder / "claims.json", tmp_path / "claims.json")
    monkeypatch.setattr(claims_run, "run_all", lambda *args, **options: pytest.fail("trained again"))
    assert run(tmp_path / "claims.json", store=tmp_path / "none", design=TINY, claims=SOME, progress=False) == found


def test_a_killed_study_goes_on_where_it_stopped_to_the_same_results(studied, tmp_path, monkeypatch):
    """Stopped after every call of the store, again and again, until it is through."""
    folder, _ = studied
    trained: list[str] = []

    def then_stop(specs, store, **options):
        # All but the first of a call's runs are lost with the process; the store keeps what it had.
        run_all(specs[:1], store, **options)
        trained.extend(spec.name for spec in specs[:1])
        if len(specs) > 1 and len(trained) < 4:
            raise Interrupted("stopped")
        return run_all(specs, store, **options)

    monkeypatch.setattr(claims_run, "run_all", then_stop)
    for _ in range(8):
        try:
            run(tmp_path / "claims.json", store=tmp_path / "store", design=TINY, claims=SOME, progress=False)
            break
        except Interrupted:
            pass
    assert len(trained) > 4
    resumed, at_once = (read_results(place / "claims.json") for place in (tmp_path, folder))
    assert page(resumed) == page(at_once)
    assert tables(resumed) == tables(at_once)


def test_a_run_of_other_numbers_is_made_again(studied, tmp_path, monkeypatch):
    folder, found = studied
    changed = read_results(folder / "claims.json")
    arm = Setting("prompt-tuning").at_paper
    changed.cells[f"lab/color|{arm.name}"]["3000"] |= {"run": "another", "score": 0.123}
    changed.write(tmp_path / "claims.json")
    again = run(tmp_path / "claims.json", store=folder / "store", design=TINY, claims=SOME, progress=False)
    assert again == found


def test_results_of_another_study_are_not_mixed(studied):
    folder, _ = studied
    with pytest.raises(BadInput, match=r"another study \(steps 2, not 3\); give another `results`"):
        run(folder / "claims.json", store=folder / "store", design=dataclasses.replace(TINY, steps=3), claims=SOME)


def test_more_seeds_are_the_same_study():
    TINY.refuse_other(dataclasses.replace(TINY, seeds=9), "x")


def test_a_missing_prompt_is_said(studied, tmp_path):
    folder, _ = studied
    spec = Setting("p-tuning").at_paper.spec(TINY, "lab/color", 3000)
    (stored,) = run_all([spec], folder / "store", progress=False)
    assert (kept_prompt(folder / "store", stored) / "manifest.json").is_file()
    with pytest.raises(BadInput, match=f"without its prompt; delete runs/{stored.name}.json"):
        kept_prompt(tmp_path, stored)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda text: text.replace('"score":0.', '"score":7.', 1),
            r"the result of lab/color\|.*, seed 300\d, is damaged",
        ),
        (lambda text: text.replace('"score"', '"scare"', 1), r"the result of lab/color\|.*, seed 300\d, is damaged"),
        (lambda text: text.replace('"validation":0.', '"validation":0.9', 1), "not as it was written"),
        (lambda text: text[:-40], "not as it was written"),
        (lambda text: "[]", "not as it was written"),
        (lambda text: text.replace('"format":1', '"format":2'), "format 2"),
    ],
)
def test_a_damaged_result_is_named(studied, tmp_path, damage, message):
    folder, _ = studied
    changed = damage((folder / "claims.json").read_text())
    (tmp_path / "claims.json").write_text(changed)
    with pytest.raises((DamagedFile, BadInput), match=message):
        read_results(tmp_path / "claims.json")


def test_missing_results_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"there are no results at .*absent\.json"):
        read_results(tmp_path / "absent.json")


def test_what_was_not_run_is_listed(studied):
    _, found = studied
    partly = Results(design=found.design, rates=found.rates, cells=dict(found.cells), evidence={})
    del partly.cells["lab/color|polar radius=10.0 lr=0.1"]
    told = page(partly, SOME)
    assert "- drift: 2 of 4 runs" in told
    assert "- similarity" not in told
    assert "- norms: no learning rate chosen yet for prompt tuning, P-Tuning" in page(Results(design=TINY))


def test_the_page_links_every_figure_that_is_written(studied, plots, tmp_path):
    _, found = studied
    target = write(found, tmp_path, SOME)
    linked = set(re.findall(r"\]\((claims/[\w-]+\.png)\)", target.read_text()))
    assert linked == {f"claims/{path.name}" for path in (tmp_path / "claims").iterdir()} == {
        "claims/similarity.png", "claims/repetition.png", "claims/drift.png"
    }  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_judged_and_drawn_from_planted_results(name, plots):
    claim = CLAIMS[name]
    rates = {setting: 0.1 for setting in claim.settings(PLANTED)}
    sides = {"start matrix": [[1.0, 0.1]], "end matrix": [[1.0, 0.2]]}
    extra = {"cosines": {"start": 0.1, "end": 0.2, **sides}, "copies": {"whole": 0.8, "1": 0.6, "10": 0.7},
             "drift": [{"layer": 1, "norm": 1.0, "moved": 0.5, "kept": 0.1, "varies": 0.2}]}  # fmt: skip
    found = planted(PLANTED, {arm: lambda seed: record(0.8, **extra) for arm in claim.arms(PLANTED, rates)})
    for setting in rates:
        found.rates[setting.name] = {"lr": 0.1, "source": "planted", "edge": False, "trials": {}}
    assert all(one.n == 6 for one in claim.checks(found))
    assert claim.title in page(found, {name: claim})
    assert claim.title in tables(found, {name: claim})
    if claim.figure is not None:
        assert plots.image(claim.figure(found, plots), "x.png").startswith(b"\x89PNG")


def test_every_run_of_the_study_can_be_named():
    """All arms of all claims, as the full study would train them; none has a seed on which a rate is chosen."""
    names = set()
    for claim in CLAIMS.values():
        rates = dict.fromkeys(claim.settings(FULL), 0.1)
        for arm in claim.arms(FULL, rates):
            assert isinstance(arm, Arm)
            names.add(arm.spec(FULL, FULL.tasks[0], FULL.seed_numbers[0]).name)
    assert len(names) > 40


def test_the_committed_page_is_what_the_committed_results_say():
    found = read_results(COMMITTED)
    assert (REPOSITORY / "docs/results/claims.md").read_text() == page(found)
    assert (COMMITTED.parent / TABLES).read_text() == tables(found)


def test_every_figure_of_the_committed_page_is_there():
    links = re.findall(r"\]\((claims/[\w-]+\.png)\)", (REPOSITORY / "docs/results/claims.md").read_text())
    assert links
    assert [link for link in links if not (REPOSITORY / "docs/results" / link).is_file()] == []


def test_the_command_makes_the_page_from_results_alone(studied, tmp_path, capsys):
    folder, _ = studied
    code = main(["--page-only", "--results", str(folder / "claims.json"), "--out", str(tmp_path)])
    assert code == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "claims.md")
    assert main(["--page-only", "--results", str(tmp_path / "absent.json")]) == 2
    assert "there are no results at" in capsys.readouterr().err
