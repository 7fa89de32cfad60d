"""The rules by which a claim is judged, on planted numbers."""

import dataclasses
import math

import pytest
import torch
from experiments.claims import (
    CLAIMS,
    Setting,
    at_least,
    verdict,
    within,
)
from experiments.claims.drift import crossing
from experiments.claims.probe import Bench, copies
from experiments.claims.results import peak, score
from experiments.common.rates import best_rate
from softprompt.backbones import from_model
from softprompt.prompts.prompt import Provenance, SoftPrompt

from claims_kit import PLANTED, TINY, check, planted, record


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
