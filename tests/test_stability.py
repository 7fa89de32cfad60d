"""Stability: every statistic against a reference, what it refuses, and the command from its words to its report."""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from softprompt.backbones import load_backbone
from softprompt.cli import main
from softprompt.cli._compared import compared
from softprompt.cli._prompts import PromptGrid
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput, SoftPromptError, UnknownName
from softprompt.inference.frozen import Baseline, baselines
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, _work, grid, load_specs, read, stability
from softprompt.study._stored import StoredRun, path_of
from softprompt.study.power import (
    detectable_difference,
    detectable_ratio,
    detectable_ratio_by_brown_forsythe,
    power_of_ratio,
    seeds_for_ratio,
)
from softprompt.study.stability import (
    Arm,
    against,
    as_given,
    plan,
    remarks,
    report,
    seed_sets,
    spread,
    tables,
    text,
    write,
)
from softprompt.study.statistics import bootstrap, brown_forsythe, deviation, holm, ratio_interval
from softprompt.tasks import TASKS, with_difficulty
from softprompt.training import Interrupted
from softprompt.training._loop import Loop

RANDOM = np.random.default_rng(0)
FIRST, SECOND = 0.7 + 0.05 * RANDOM.normal(size=20), 0.65 + 0.12 * RANDOM.normal(size=20)


def arm(name, scores, chance: float | None = 0.5, seeds=None, **rest):
    return Arm(name=name, seeds=tuple(seeds or range(len(scores))), scores=tuple(scores), chance=chance, **rest)


class TestRatioOfDeviations:
    def test_the_interval_is_scipys_paired_percentile_bootstrap(self):
        def ratio(a, b, axis=-1):
            return a.std(axis=axis, ddof=1) / b.std(axis=axis, ddof=1)

        options = {"paired": True, "method": "percentile", "n_resamples": 10_000, "vectorized": True}
        theirs = stats.bootstrap((FIRST, SECOND), ratio, rng=0, **options).confidence_interval
        assert ratio_interval(FIRST, SECOND) == pytest.approx((theirs.low, theirs.high), abs=0.02)

    def test_the_other_way_round_it_is_the_inverse(self):
        low, high = ratio_interval(FIRST, SECOND) or (0, 0)
        assert ratio_interval(SECOND, FIRST) == pytest.approx((1 / high, 1 / low), rel=1e-3)

    def test_pairs_stay_together(self):
        assert ratio_interval(2 * FIRST, FIRST) == pytest.approx((2, 2))

    def test_it_is_seeded(self):
        assert ratio_interval(FIRST, SECOND, seed=1) == ratio_interval(FIRST, SECOND, seed=1)
        assert ratio_interval(FIRST, SECOND, seed=1) != ratio_interval(FIRST, SECOND, seed=2)

    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            ([0.1] * 5, [0.5, 0.6, 0.7, 0.8, 0.9], (0, 0)),
            ([0.5, 0.6, 0.7, 0.8, 0.9], [0.1] * 5, (math.inf, math.inf)),
            ([0.1] * 5, [0.7] * 5, None),
            ([0.1], [0.7], None),
            # Two pairs: a resample is both, or says nothing.
            ([0.1, 0.3], [0.5, 0.6], (2, 2)),
        ],
    )
    def test_arms_without_a_deviation_have_no_warning_and_no_nan(self, first, second, expected):
        assert ratio_interval(first, second) == (None if expected is None else pytest.approx(expected))

    def test_resamples_without_a_deviation_below_the_line_are_infinite(self):
        low, high = ratio_interval([0.5, 0.6, 0.7], [0.1, 0.1, 0.2]) or (0, 0)
        assert low > 0
        assert high == math.inf

    def test_equal_values_have_a_deviation_of_exactly_zero(self):
        # Summed in floating point, three times 0.1 is not 0.3.
        assert np.full((1, 3), 0.1).std(ddof=1) > 0
        assert deviation(np.full((1, 3), 0.1)) == 0


class TestBrownForsythe:
    def test_it_is_an_analysis_of_variance_of_the_deviations_from_the_medians(self):
        reference = stats.f_oneway(*(abs(v - np.median(v)) for v in (FIRST, SECOND))).pvalue
        assert brown_forsythe(FIRST, SECOND) == pytest.approx(reference)
        assert brown_forsythe(FIRST, FIRST + 3) == pytest.approx(1)

    def test_one_constant_arm_is_compared(self):
        expected = stats.levene([0.1] * 4, [0.1, 0.2, 0.3, 0.9], center="median").pvalue
        assert brown_forsythe([0.1] * 4, [0.1, 0.2, 0.3, 0.9]) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ([0.1, 0.2], [0.3, 0.9]),
            ([0.1] * 4, [0.7] * 4),
            # All deviations of each arm are equal up to rounding, so that the test would divide by almost nothing.
            ([0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.9, 0.9]),
        ],
    )
    def test_what_it_cannot_compare_is_none(self, first, second):
        assert brown_forsythe(first, second) is None


class TestHolm:
    def test_it_is_the_closed_test_of_bonferroni(self):
        """Adjusted, p_i is the largest over all sets S that hold i of min(1, |S| min p)."""
        ps = [0.02, 0.001, 0.3, 0.02, 0.04]
        for i, found in enumerate(holm(ps)):
            sets = [s for k in range(1, 6) for s in itertools.combinations(range(5), k) if i in s]
            assert found == pytest.approx(max(min(1, len(s) * min(ps[j] for j in s)) for s in sets))

    def test_what_was_not_tested_does_not_count(self):
        assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
        assert holm([0.9, 0.8]) == [1, 1]
        assert holm([None]) == [None]
        assert holm([]) == []


class TestPower:
    @pytest.mark.parametrize("n", [5, 20])
    def test_the_detectable_ratio_is_found_in_four_of_five_drawn_samples(self, n):
        drawn = np.random.default_rng(1).normal(size=(2, 20_000, n))
        f = (detectable_ratio(n) * drawn[0]).var(axis=1, ddof=1) / drawn[1].var(axis=1, ddof=1)
        tail = stats.f(n - 1, n - 1).cdf(f)
        assert (2 * np.minimum(tail, 1 - tail) < 0.05).mean() == pytest.approx(0.8, abs=0.01)

    def test_and_its_inverse_as_often(self):
        assert power_of_ratio(1 / detectable_ratio(12), 12) == pytest.approx(0.8)

    @pytest.mark.parametrize("n", [8, 25])
    def test_brown_forsythes_ratio_is_found_in_four_of_five_other_samples(self, n):
        ratio = detectable_ratio_by_brown_forsythe(n)
        assert ratio is not None
        first, second = np.random.default_rng(1).normal(size=(2, 3000, n))
        ps = stats.levene(first, ratio * second, center="median", axis=1).pvalue
        assert (ps < 0.05).mean() == pytest.approx(0.8, abs=0.025)
        assert ratio < detectable_ratio(n)

    def test_a_halved_deviation_needs_19_seeds_at_best_and_about_25_by_brown_forsythe(self):
        assert seeds_for_ratio(0.5) == seeds_for_ratio(2.0) == 19
        assert power_of_ratio(0.5, 18) < 0.8 <= power_of_ratio(0.5, 19)
        few, many = detectable_ratio_by_brown_forsythe(22), detectable_ratio_by_brown_forsythe(26)
        assert few is not None
        assert many is not None
        assert few < 0.5 < many

    @pytest.mark.parametrize("n", [2, 5, 20])
    def test_the_detectable_difference_is_found_in_four_of_five_drawn_samples(self, n):
        drawn = detectable_difference(n) + np.random.default_rng(1).normal(size=(20_000, n))
        tests: Any = stats.ttest_1samp(drawn, 0, axis=1)
        assert (tests.pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)

    def test_few_seeds_find_no_ratio_at_all_by_brown_forsythe(self):
        assert [detectable_ratio_by_brown_forsythe(n) for n in (2, 3, 5)] == [None] * 3
        assert detectable_ratio(2) < 0.02

    def test_the_table_of_the_docs_is_what_is_computed(self):
        page = (Path(__file__).parent.parent / "docs" / "stability.md").read_text()
        rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
        assert len(rows) == 5
        for n, *shown in rows:
            functions = (detectable_ratio, detectable_ratio_by_brown_forsythe, detectable_difference)
            assert shown == [f"{function(int(n)):.2f}" for function in functions]

    @pytest.mark.parametrize("function", [detectable_ratio, detectable_ratio_by_brown_forsythe, detectable_difference])
    def test_one_seed_is_refused(self, function):
        with pytest.raises(BadInput, match="at least two"):
            function(1)

    @pytest.mark.parametrize("ratio", [1.0, 0.0, -1.0, math.nan, math.inf])
    def test_a_ratio_that_is_none_is_refused(self, ratio):
        with pytest.raises(BadInput, match="positive and not 1"):
            seeds_for_ratio(ratio)


class TestSpread:
    def test_numbers_equal_numpy(self):
        found = spread(
            arm(
                "a",
                FIRST.tolist(),
                train_scores=tuple(map(float, range(20))),
                train_losses=(0.5,) * 20,
                prompt_steps=(20, 40) * 10,
            )
        )
        assert found.mean == pytest.approx(FIRST.mean())
        assert found.std == pytest.approx(FIRST.std(ddof=1))
        assert found.min == FIRST.min()
        assert found.worst_quarter == pytest.approx(np.sort(FIRST)[:5].mean())
        assert (found.q25, found.median, found.q75) == pytest.approx(np.quantile(FIRST, [0.25, 0.5, 0.75]))
        assert (found.low, found.high) == bootstrap(FIRST)
        theirs = stats.bootstrap((FIRST,), np.std, method="percentile", n_resamples=10_000, rng=0).confidence_interval
        correction = math.sqrt(20 / 19)
        assert (found.std_low, found.std_high) == pytest.approx(
            (theirs.low * correction, theirs.high * correction), abs=0.002
        )
        assert (found.train_score, found.train_loss, found.prompt_steps) == (9.5, 0.5, 30)

    def test_failed_is_at_chance_or_below_and_stuck_is_not_half_of_the_way(self):
        found = spread(arm("a", [0.5, 0.4, 0.51, 0.74, 0.76, None]), ceiling=1.0)
        assert (found.n, found.dropped) == (6, 1)
        assert found.failed == 3 / 6
        assert found.stuck == 5 / 6
        assert found.mean == pytest.approx(np.mean([0.5, 0.4, 0.51, 0.74, 0.76]))
        own = spread(arm("a", [0.5, 0.4, 0.51, 0.74, 0.76, None]))
        assert own.stuck == 4 / 6

    def test_two_seeds_have_every_number(self):
        found = dataclasses.asdict(spread(arm("a", [0.6, 0.8])))
        assert found["std"] == pytest.approx(0.2 / math.sqrt(2))
        assert found["worst_quarter"] == found["min"] == 0.6
        assert (found["low"], found["high"]) == pytest.approx((0.6, 0.8))
        assert {name for name, value in found.items() if value is None} == {"train_score", "train_loss", "prompt_steps"}

    def test_equal_scores_have_no_spread_at_all(self):
        found = spread(arm("a", [0.1] * 7))
        assert (found.std, found.std_low, found.std_high) == (0, 0, 0)
        assert found.low == pytest.approx(0.1)

    def test_where_nothing_is_known_nothing_is_said(self):
        assert spread(arm("a", [None, None])).mean is None
        unknown = spread(arm("a", [0.6, 0.8], chance=None))
        assert unknown.failed is unknown.stuck is None


class TestAgainst:
    def test_numbers_equal_numpy_and_scipy(self):
        found = against(arm("a", FIRST.tolist()), arm("b", SECOND.tolist()))
        differences = FIRST - SECOND
        assert (found.n, found.unpaired) == (20, 0)
        assert found.difference == pytest.approx(differences.mean())
        assert (found.low, found.high) == pytest.approx(bootstrap(differences))
        assert (found.wins, found.ties, found.losses) == ((differences > 0).sum(), 0, (differences < 0).sum())
        assert found.p == pytest.approx(stats.wilcoxon(differences)[1])
        assert found.ratio == pytest.approx(FIRST.std(ddof=1) / SECOND.std(ddof=1))
        assert (found.ratio_low, found.ratio_high) == ratio_interval(FIRST, SECOND)
        assert found.p_ratio == pytest.approx(stats.levene(FIRST, SECOND, center="median").pvalue)
        assert found.detectable == pytest.approx(detectable_difference(20) * differences.std(ddof=1))
        assert found.lost == pytest.approx((SECOND.mean() - FIRST.mean()) / (SECOND.mean() - 0.5))
        assert not found.is_no_stability

    def test_pairs_are_of_equal_seeds_in_any_order_and_only_of_scores(self):
        first = arm("a", [0.9, 0.8, 0.7, None], seeds=[3, 1, 2, 4])
        second = arm("b", [0.5, 0.6, 0.75, 0.1], seeds=[1, 2, 3, 4])
        found = against(first, second)
        assert (found.n, found.unpaired) == (3, 1)
        assert found.difference == pytest.approx((0.3 + 0.1 + 0.15) / 3)
        whole = against(arm("a", [0.8, 0.7, 0.9]), arm("b", [0.5, 0.6, 0.75]))
        assert found.ratio == pytest.approx(whole.ratio)

    def test_two_pairs_have_differences_but_no_test_of_variances(self):
        found = against(arm("a", [0.6, 0.8]), arm("b", [0.5, 0.9]))
        assert found.p == 1
        assert found.ratio == pytest.approx(0.5)
        assert found.p_ratio is None

    @pytest.mark.parametrize(
        ("first", "second", "ratio"),
        [
            ([0.1] * 4, [0.1, 0.2, 0.3, 0.4], 0),
            ([0.1, 0.2, 0.3, 0.4], [0.1] * 4, math.inf),
            ([0.1] * 4, [0.3] * 4, None),
        ],
    )
    def test_arms_that_do_not_vary_are_said_to(self, first, second, ratio):
        found = against(arm("a", first), arm("b", second))
        assert found.ratio == found.ratio_low == found.ratio_high == ratio

    def test_without_pairs_there_is_no_number(self):
        found = against(arm("a", [0.1, 0.2], seeds=[1, 2]), arm("b", [0.1, 0.2], seeds=[3, 4]))
        assert (found.n, found.unpaired) == (0, 4)
        assert found.difference is found.p is found.ratio is None
        one = against(arm("a", [0.3, 0.2], seeds=[1, 2]), arm("b", [0.1, 0.2], seeds=[1, 4]))
        assert one.difference == pytest.approx(0.2)
        assert one.ratio is one.low is None

    def test_a_smaller_deviation_with_a_mean_near_chance_is_no_stability(self):
        wide, collapsed = arm("b", [0.5, 0.9, 0.7, 0.8]), arm("a", [0.5, 0.51, 0.52, 0.5])
        assert against(collapsed, wide).is_no_stability
        assert against(collapsed, wide).lost == pytest.approx(1 - 0.0075 / 0.225)
        # Half of the way is lost, in two pairs whose interval reaches 0.
        few = against(arm("a", [0.5, 0.52]), arm("b", [0.5, 0.9]))
        assert few.high == 0
        assert few.is_no_stability
        # As steady, and not below a tenth of the way.
        assert not against(arm("a", [0.72, 0.71, 0.7, 0.705]), wide).is_no_stability
        assert not against(wide, collapsed).is_no_stability
        unknown = dataclasses.replace(wide, chance=None), dataclasses.replace(collapsed, chance=None)
        assert against(unknown[1], unknown[0]).lost is None


class TestSeeds:
    def test_by_default_everything_varies(self):
        assert seed_sets((), 3, 5) == {"all": (Seeds.all(5), Seeds.all(6), Seeds.all(7))}

    def test_one_source_varies_and_the_others_stay(self):
        assert seed_sets(["order"], 2, 4) == {
            "order": (Seeds.all(4), Seeds(initialization=4, order=5, draw=4, noise=4))
        }

    def test_several_vary_alone_and_together(self):
        found = seed_sets(["init", "draw"], 2)
        assert list(found) == ["init", "draw", "together"]
        assert [group[0] for group in found.values()] == [Seeds()] * 3
        assert [group[1] for group in found.values()] == [
            Seeds(initialization=1), Seeds(draw=1), Seeds(initialization=1, draw=1),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"vary": ["initt"]}, r"unknown source of variance 'initt'. Did you mean 'init'"),
            ({"vary": ["init", "init"]}, "names a source twice"),
            ({"seeds": 1}, "1 seeds have no spread; at least 2"),
            ({"base_seed": -1}, "must not be negative"),
        ],
    )
    def test_mistakes_are_named(self, given, message):
        with pytest.raises(SoftPromptError, match=message):
            seed_sets(**given)


BASE = {"task": "lab/opinion", "model": "m", "steps": 4}


def two(**more):
    return {name: grid(**BASE, method=name, **more)[0] for name in ("prompt-tuning", "ept-star")}


def stored(spec, score, majority: float | None = 0.5, losses=(), train=None):
    metrics = {} if score is None else {"test": {"score": score}, **({"train": {"score": train}} if train else {})}
    return StoredRun(
        name=spec.name, spec=spec, metrics=metrics, majority=majority, best_step=2, trainable=1, head=0, stored=1,
        seconds=1.0, status="finished", prompt_steps=20, curve={"step": list(range(len(losses))), "loss": list(losses)},
    )  # fmt: skip


class TestPlan:
    def test_runs_are_those_of_a_study_with_the_same_seeds(self):
        planned = plan(two(), seeds=3, base_seed=2)
        expected = grid(**BASE, method=["prompt-tuning", "ept-star"], seed=range(2, 5))
        assert [spec.name for spec in planned.specs] == [spec.name for spec in expected]
        assert planned.longest == 3

    def test_each_source_is_a_set_and_the_last_is_together(self):
        planned = plan(two(shots=8), seeds=2, vary=["init", "draw"])
        assert {name: {s: len(specs) for s, specs in settings.items()} for name, settings in planned.sets.items()} == {
            name: {"prompt-tuning": 2, "ept-star": 2} for name in ("init", "draw", "together")
        }
        assert len(planned.specs) == 12
        # The first seed of each set is the same run.
        assert len({spec.name for spec in planned.specs}) == 8

    def test_what_cannot_be_compared_is_refused(self):
        with pytest.raises(BadInput, match="'a' and 'b' are the same runs"):
            plan({"a": two()["ept-star"], "b": dataclasses.replace(two()["ept-star"], tags={"x": 1})})
        other = dataclasses.replace(two()["ept-star"], task="lab/color")
        with pytest.raises(BadInput, match=r"one task, not 2 \(lab/color, lab/opinion\)"):
            plan({"a": two()["ept-star"], "b": other})
        with pytest.raises(BadInput, match=r"'ept-star' is trained on all rows, so no draw varies; give `shots`"):
            plan({"ept-star": two()["ept-star"]}, vary=["draw"])
        with pytest.raises(UnknownName, match="unknown method 'ept-str'"):
            plan({"a": dataclasses.replace(two()["ept-star"], prompt=PromptSettings(method="ept-str"))})

    def test_a_list_of_runs_is_parted_into_its_settings(self):
        specs = grid(**BASE, method="ept-star", lr=[0.1, 0.3], seed=[0, 1, 2])
        planned = as_given(specs)
        assert {name: len(found) for name, found in planned.sets["given"].items()} == {"lr=0.1": 3, "lr=0.3": 3}
        tagged = [*grid(**BASE, tags={"setting": "none"}, seed=[0, 1]), *grid(**BASE, lr=0.1, seed=[0, 1])]
        assert list(as_given(tagged).sets["given"]) == ["none", "lr=0.1"]
        with pytest.raises(BadInput, match=r"'lr=0\.3' has one seed"):
            as_given(specs[:4])
        with pytest.raises(BadInput, match="two settings are named 'x'"):
            as_given([dataclasses.replace(spec, tags={"setting": "x"}) for spec in specs])


class TestArm:
    def test_it_holds_what_the_runs_say(self):
        specs = grid(**BASE, seed=[3, 4])
        losses = [float(i) for i in range(20)]
        runs = [stored(specs[0], 0.7, losses=losses, train=0.9), stored(specs[1], None)]
        found = Arm.of("a", runs)
        assert found.seeds == ((3, 3, 3, 3), (4, 4, 4, 4))
        assert found.scores == (0.7, None)
        assert found.chance == 0.5
        assert found.train_scores == (0.9, None)
        # The last tenth of twenty steps.
        assert found.train_losses == (18.5, None)
        assert found.prompt_steps == (20, 20)

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_what_is_no_finite_number_is_no_score(self, number):
        found = arm("a", [0.6, number, 0.7], train_scores=(0.9, number, 0.9), train_losses=(number, 1.0, 1.0))
        assert found.scores == (0.6, None, 0.7)
        assert (found.train_scores, found.train_losses) == ((0.9, None, 0.9), (None, 1.0, 1.0))
        judged = report({"none": arm("none", [0.6, 0.65, 0.7]), "a": found})
        assert (judged.spreads[1].dropped, judged.spreads[1].mean) == (1, pytest.approx(0.65))
        assert (judged.comparisons[0].n, judged.comparisons[0].difference) == (2, 0)

    def test_free_text_has_a_chance_of_zero(self):
        spec = RunSpec(task="lab/purchase", model="m")
        assert Arm.of("a", [stored(spec, 0.7, majority=None)]).chance == 0

    def test_what_is_not_one_setting_is_refused(self):
        specs = [*grid(**BASE, seed=0), *grid(**{**BASE, "task": "lab/color"}, seed=1)]
        with pytest.raises(BadInput, match=r"runs of lab/color, lab/opinion; judge one task"):
            Arm.of("a", [stored(spec, 0.5) for spec in specs])
        with pytest.raises(BadInput, match="'a' has a seed twice"):
            Arm.of("a", [stored(spec, 0.5) for spec in grid(**BASE, lr=[0.1, 0.3])])
        with pytest.raises(BadInput, match="2 scores of 3 seeds"):
            Arm(name="a", seeds=(1, 2, 3), scores=(0.5, 0.5))


class TestReport:
    def test_settings_are_held_against_the_first_and_corrected_for_all(self):
        third = (FIRST + 0.01).tolist()
        arms = {"none": arm("none", SECOND.tolist()), "a": arm("a", FIRST.tolist()), "b": arm("b", third)}
        found = report(arms, about={"task": "lab/opinion"})
        assert [one.setting for one in found.spreads] == ["none", "a", "b"]
        assert [(one.setting, one.reference) for one in found.comparisons] == [("a", "none"), ("b", "none")]
        for raw, whole in (("p", "p_holm"), ("p_ratio", "p_ratio_holm")):
            ps = [getattr(against(arms[name], arms["none"]), raw) for name in "ab"]
            assert [getattr(one, whole) for one in found.comparisons] == holm(ps)
        assert found.ceiling == max(SECOND.max(), max(third))
        assert found.ceiling is not None
        assert found.spreads[1].stuck == np.mean([s < (0.5 + found.ceiling) / 2 for s in FIRST])
        assert found.power.ratio == detectable_ratio(20)

    def test_it_warns_of_what_would_be_read_wrongly(self):
        wide = arm("none", [0.5, 0.9, 0.7, 0.8])
        flat, lossy = arm("flat", [0.5] * 4), arm("lossy", [0.8, 0.9, None, 0.7])
        same = dataclasses.replace(wide, name="same")
        found = report({one.name: one for one in (wide, flat, lossy, same)})
        assert found.warnings == (
            "flat: all 4 scores are equal, so nothing can be said of spread",
            "lossy: 1 of 4 seeds have no score and are in no mean or deviation; they count as failed",
            "flat: its standard deviation is 0.00 times that of none, but its mean lost 100% of the way above chance: "
            "that is no stability",
            "lossy: 1 seed has no partner and is left out of the comparison",
            "same: every score equals that of none: the setting changed nothing here",
        )
        narrow = arm("narrow", [0.65, 0.71, 0.7, 0.73])
        assert report({"none": arm("none", [0.6, 0.9, 0.65, 0.85]), "narrow": narrow}).warnings == (
            "narrow: its mean is lower by 21% of the way above chance, though not for sure: its smaller standard "
            "deviation may be no stability",
        )
        gaps = report({"none": arm("none", [None, 0.6, 0.7]), "a": arm("a", [0.5, None, 0.7])})
        # Of a single pair nothing is said.
        assert [line for line in gaps.warnings if line.startswith("a: ")][1:] == [
            "a: 2 seeds have no partner and are left out of the comparison"
        ]
        nothing = report({"none": flat, "a": wide})
        assert any("flat, the reference, is at chance (0.500)" in line for line in nothing.warnings)

    @pytest.mark.parametrize(
        ("arms", "message"),
        [
            ([], "nothing to judge"),
            ([arm("a", [0.5])], "'a' has 1 seeds; a spread needs at least 2"),
            ([arm("a", [0.5, 0.6]), arm("b", [0.5, 0.6], chance=0.3)], "chances of 0.300 and 0.500 are of other tasks"),
        ],
    )
    def test_what_cannot_be_judged_is_refused(self, arms, message):
        with pytest.raises(BadInput, match=message):
            report({one.name: one for one in arms})

    def test_it_is_json_even_where_a_ratio_is_infinite(self):
        found = report({"none": arm("none", [0.6] * 3), "a": arm("a", [0.6, 0.7, 0.8])})
        assert found.comparisons[0].ratio == math.inf
        values = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert values["comparisons"][0]["ratio"] is None
        assert values["arms"]["a"]["scores"] == [0.6, 0.7, 0.8]

    def test_its_text_has_every_setting_and_what_the_sample_can_show(self):
        found = report({"none": arm("none", SECOND.tolist()), "a|b": arm("a|b", FIRST.tolist())})
        shown = text(found)
        assert shown.startswith("# Stability, 20 seeds, chance 0.500\n")
        assert f"| a\\|b | 20 | {FIRST.mean():.3f} | " in shown
        (row,) = tables(found)["Standard deviations against none"]
        low, high = ratio_interval(FIRST, SECOND) or (0, 0)
        assert (row["95 %"], row["verdict"]) == (f"{low:.3f} .. {high:.3f}", "smaller")
        assert "a ratio of standard deviations of 0.52 or less" in shown
        assert "0.46 by the Brown-Forsythe test" in shown
        assert "0.66 standard deviations of the paired differences" in shown
        assert "takes 19 seeds an arm at best" in shown

    @pytest.mark.parametrize(
        ("first", "verdict"),
        [([0.5, 0.51, 0.52, 0.5], "no stability: the mean fell"), ([0.1] * 4, "no stability: the mean fell"),
         ([0.66, 0.8, 0.85, 0.69], "not shown"),
         ([0.72, 0.71, 0.7, 0.73], "smaller, but the mean may have fallen"), ([0.8, 0.81, 0.8, 0.81], "smaller")],
    )  # fmt: skip
    def test_a_verdict_follows_the_interval_unless_the_mean_fell(self, first, verdict):
        found = report({"none": arm("none", [0.6, 0.9, 0.65, 0.85]), "a": arm("a", first)})
        (row,) = tables(found)["Standard deviations against none"]
        assert row["verdict"] == verdict

    def test_equal_spreads_over_few_seeds_are_seldom_called_different(self):
        scores = np.random.default_rng(0).normal(0.8, 0.03, (100, 2, 3))
        found = [report({"none": arm("none", a.tolist()), "a": arm("a", b.tolist())}) for a, b in scores]
        verdicts = [row["verdict"] for each in found for row in tables(each)["Standard deviations against none"]]
        assert sum(verdict.startswith(("smaller", "larger")) for verdict in verdicts) <= 5

    def test_causes_are_told_beside_what_they_make_together(self):
        sets = {"init": {"a": arm("a", [0.6, 0.7])}, "together": {"a": arm("a", [0.6, 0.8])}}
        found = report(sets["together"], causes=sets)
        first, last = tables(found)["Standard deviations by what varies"]
        assert (first["varied"], first["std"], first["of together"]) == ("init", "0.071", "0.500")
        assert (last["varied"], last["of together"]) == ("together", "1.000")
        assert any("need not add up" in line for line in remarks(found))

    def test_files_are_written_and_replaced(self, tmp_path):
        pytest.importorskip("matplotlib", reason="figures need the extra `plots`")
        sets = {"init": {"a": arm("a", [0.6, None])}, "together": {"a": arm("a", [0.6, 0.8])}}
        found = report(sets["together"], causes=sets)
        written = write(found, tmp_path / "r")
        assert [path.name for path in written] == ["report.json", "report.md", "strip.png", "causes.png"]
        assert json.loads(written[0].read_text()) == json.loads(json.dumps(found.to_json()))
        assert written[1].read_text() == text(found)
        before = [path.read_bytes() for path in written]
        assert [path.read_bytes() for path in write(found, tmp_path / "r")] == before


class TestSettings:
    """`--setting "NAME: OPTIONS"`: what is written replaces the command's own."""

    BASE = PromptGrid(method=("prompt-tuning",), lr=(0.2,), max_norm=3.0)

    def test_without_any_each_method_and_rate_is_one(self):
        train = TrainSettings(steps=5)
        grid = PromptGrid(method=("scaled", "ept"), lr=(0.1, 0.3))
        found = compared(grid, train, None)
        assert list(found) == ["scaled, lr 0.1", "scaled, lr 0.3", "ept, lr 0.1", "ept, lr 0.3"]
        assert found["ept, lr 0.1"] == (PromptSettings(method="ept", lr=0.1), train)
        assert list(compared(PromptGrid(method=("scaled",), lr=(0.1,)), train, None)) == ["scaled"]

    def test_what_is_written_replaces_the_commands_own_and_nothing_else(self):
        texts = ["none", "a b: --lr 0.5 --steps 9", "c: --method ept --method-option hidden=3 --init 'text:good film'"]
        found = compared(self.BASE, TrainSettings(steps=5, clip=1.0), texts)
        plain = PromptSettings(method="prompt-tuning", lr=0.2, max_norm=3.0)
        assert found["none"] == (plain, TrainSettings(steps=5, clip=1.0))
        assert found["a b"] == (dataclasses.replace(plain, lr=0.5), TrainSettings(steps=9, clip=1.0))
        changed = dataclasses.replace(plain, method="ept", options={"hidden": "3"}, init="text:good film")
        assert found["c"] == (changed, TrainSettings(steps=5, clip=1.0))

    def test_a_regulariser_is_an_option_as_any_other(self):
        texts = ["none", "ptp: --regularizer rn-emb --alpha 0.3"]
        none, ptp = (prompt for prompt, _ in compared(self.BASE, TrainSettings(), texts).values())
        assert dataclasses.replace(none, regularizer="rn-emb:alpha=0.3") == ptp

    def test_every_option_of_training_can_be_written(self):
        """Whatever fields the two have, now or later."""
        for f in dataclasses.fields(TrainSettings):
            option = f"--{f.name.replace('_', '-')}"
            words = {bool: "", str: "linear"}.get(type(f.default), "7")
            others = {"decode": "generate", "normalize": "mean", "schedule": "constant", "loss": "labels"}
            words = (others | {"class_weights": "balanced", "label_smoothing": "0.5"}).get(f.name, words)
            own, settings = compared(self.BASE, TrainSettings(), [f"a: {option} {words}"])["a"]
            assert getattr(settings, f.name) != f.default or f.default == 7
            assert own == compared(self.BASE, TrainSettings(), ["a"])["a"][0]

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            (["guarded --max-norm 4"], r"'guarded --max-norm 4' is not NAME: OPTIONS"),
            ([": --lr 1"], "is not NAME: OPTIONS"),
            (["a: --norm-gard 4"], r"setting 'a': No such option: --norm-gard"),
            (["a: --lr x"], "setting 'a': Invalid value for '--lr'"),
            (["a: 4"], "setting 'a': .*unexpected extra argument"),
            (["a: --seed 4"], "setting 'a': No such option: --seed"),
            (["a: --lr 1 --lr 2"], r"setting 'a' is 2 prompts; give it one --method and one --lr"),
            (["a: --init 'text"], "cannot be read: No closing quotation"),
            (["a", "a"], "two settings are named 'a'"),
            (["a: --max-norm -1"], "--max-norm must be positive"),
            (["a: --steps 0"], "--steps must be positive"),
        ],
    )
    def test_mistakes_are_named(self, texts, message):
        with pytest.raises(BadInput) as caught:
            compared(self.BASE, TrainSettings(), texts)
        # As the command line prints it.
        assert re.search(message, caught.value.message)


WORDS = ["stability", "--task", "lab/opinion", "--task-option", "train=64", "--task-option", "validation=8",
         "--task-option", "test=24", "--model", "lab-t5-small", "--steps", "4", "--eval-every", "2", "--batch-size",
         "4", "--device", "cpu", "--quiet"]  # fmt: skip
SETTINGS = ["--method", "prompt-tuning", "--setting", "none", "--setting", "small: --prompt-length 2"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two settings of three seeds, and what was printed."""
    store, printed = tmp_path_factory.mktemp("stability") / "store", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store)]) == 0
    return store, printed.getvalue()


class TestCommand:
    def test_the_report_is_of_the_stored_runs(self, done):
        store, printed = done
        (folder,) = (store / "reports").iterdir()
        assert printed == (folder / "report.md").read_text() + "\n"
        values = json.loads((folder / "report.json").read_text())
        assert (values["about"]["task"], values["about"]["seeds"]) == ("lab/opinion", 3)
        for setting, scores in ((one, values["arms"][one]["scores"]) for one in ("none", "small")):
            names = values["about"]["runs"]["all"][setting]
            runs = [json.loads(path_of(store, name).read_text())["run"] for name in names]
            assert [run["metrics"]["test"]["score"] for run in runs] == scores
            assert [run["spec"]["prompt"]["seeds"] for run in runs] == [vars(Seeds.all(i)) for i in range(3)]
            assert [run["metrics"]["train"]["score"] for run in runs] == values["arms"][setting]["train_scores"]
            assert all(0 <= run["metrics"]["train"]["score"] <= 1 for run in runs)
        assert [one["setting"] for one in values["comparisons"]] == ["small"]

    def test_what_was_not_trained_stands_above_the_settings_on_the_same_rows(self, done):
        store, printed = done
        (folder,) = (store / "reports").iterdir()
        values = json.loads((folder / "report.json").read_text())
        by_name = {one["name"]: one for one in values["untrained"]}
        assert list(by_name) == ["majority", "frozen", "instruction"]
        assert by_name["majority"]["score"] == pytest.approx(values["chance"])
        for scored, gain in zip(values["spreads"], values["gains"], strict=True):
            assert (gain["setting"], gain["reference"]) == (scored["setting"], "instruction")
            for name, end in (("difference", "mean"), ("low", "low"), ("high", "high")):
                assert gain[name] == pytest.approx(scored[end] - by_name["instruction"]["score"])
        shown = printed[printed.index("## Without training") : printed.index("## Test scores")]
        rows = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("|")]
        assert rows[2:] == ["majority", "frozen", "instruction", "none", "small"]

    def test_they_answer_as_the_command_frozen_does_and_are_computed_once(self, done, monkeypatch, capsys):
        store, printed = done
        (kept,) = (store / "baselines").iterdir()
        lines = json.loads(kept.read_text())["baselines"]
        task = with_difficulty(TASKS["lab/opinion"], train=64, validation=8, test=24)
        splits = split_rows(task, load_rows(task))
        expected = baselines(load_backbone("lab-t5-small"), task, splits.test, splits.train)
        assert [Baseline.from_json(line) for line in lines] == expected
        assert {len(line.predictions) for line in expected} == {24}
        monkeypatch.setattr(_work.Models, "of", lambda *_: pytest.fail("a model was loaded"))
        assert main([*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store)]) == 0
        assert capsys.readouterr().out == printed

    def test_they_can_be_left_out(self, done, tmp_path, capsys):
        store, printed = done
        words = [*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store), "--output", str(tmp_path), "--no-frozen"]
        assert main(words) == 0
        without = capsys.readouterr().out
        assert "Without training" not in without
        assert without.splitlines()[-1] == printed.splitlines()[-1]

    def test_each_setting_is_one_fleet(self, done):
        store, _ = done
        fleets = {tuple(json.loads(p.read_text())["run"]["fleet"]) for p in (store / "runs").iterdir()}
        assert [len(fleet) for fleet in fleets] == [3, 3]

    def test_the_same_command_trains_nothing_again(self, done, monkeypatch, capsys):
        store, printed = done
        monkeypatch.setattr(Loop, "run", lambda *_, **__: pytest.fail("trained"))
        assert main([*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store)]) == 0
        assert capsys.readouterr().out == printed

    def test_json_is_the_report_in_one_line(self, done, capsys, tmp_path):
        store, _ = done
        words = [*WORDS, *SETTINGS, "--seeds", "3", "--store", str(store), "--output", str(tmp_path / "r"), "--json"]
        assert main(words) == 0
        values = json.loads(capsys.readouterr().out)
        assert values == json.loads((tmp_path / "r" / "report.json").read_text())

    def test_an_interrupted_command_goes_on(self, done, tmp_path, monkeypatch, capsys):
        original, steps = Loop._optimize, []

        def stopped(loop):
            steps.append(loop.step)
            if len(steps) == 6:
                signal.raise_signal(signal.SIGINT)
            return original(loop)

        monkeypatch.setattr(Loop, "_optimize", stopped)
        words = [*WORDS, *SETTINGS, "--seeds", "3", "--store", str(tmp_path)]
        assert main(words) == Interrupted.exit_code
        assert "stopped with 3 of 6 runs stored" in capsys.readouterr().err
        assert main(words) == 0
        # Two fleets of four steps: none of them was made twice.
        assert len(steps) == 8
        _, printed = done
        assert capsys.readouterr().out == printed

    def test_sources_of_variance_are_taken_apart(self, tmp_path, capsys):
        words = [*WORDS, "--method", "scaled", "--shots", "16", "--vary", "init,draw", "--base-seed", "5"]
        assert main([*words, "--seeds", "2", "--store", str(tmp_path), "--json"]) == 0
        values = json.loads(capsys.readouterr().out)
        assert list(values["causes"]) == ["init", "draw", "together"]
        seeds = {name: arms["scaled"]["seeds"] for name, arms in values["cause_arms"].items()}
        assert seeds == {
            "init": [[5, 5, 5, 5], [6, 5, 5, 5]],
            "draw": [[5, 5, 5, 5], [5, 5, 6, 5]],
            "together": [[5, 5, 5, 5], [6, 5, 6, 5]],
        }
        assert values["arms"] == values["cause_arms"]["together"]
        assert len(list((tmp_path / "runs").iterdir())) == 4
        (folder,) = (tmp_path / "reports").iterdir()
        assert "Standard deviations by what varies" in (folder / "report.md").read_text()

    def file(self, tmp_path, seeds=""):
        path = tmp_path / "study.toml"
        path.write_text(
            f"""
            [defaults]
            model = "lab-t5-small"
            steps = 4
            eval_every = 2
            batch_size = 4
            {seeds}
            [tasks.small]
            lab = "lab/opinion"
            train = 64
            validation = 8
            test = 24
            [[runs]]
            task = "small"
            method = ["prompt-tuning", "scaled"]
            """
        )
        return path

    def test_a_study_file_without_seeds_has_those_of_the_command(self, tmp_path, capsys):
        path = self.file(tmp_path)
        words = ["--store", str(tmp_path / "s"), "--seeds", "2", "--device", "cpu", "--quiet", "--json"]
        assert main(["stability", "--study", str(path), *words]) == 0
        values = json.loads(capsys.readouterr().out)
        assert list(values["arms"]) == ["prompt-tuning", "scaled"]
        assert values["arms"]["scaled"]["seeds"] == [[0] * 4, [1] * 4]
        assert values["spreads"][0]["train_score"] is not None

    def test_a_study_file_with_seeds_is_judged_from_the_runs_it_has(self, tmp_path, capsys, monkeypatch):
        path = self.file(tmp_path, "seed = [3, 4]")
        store = tmp_path / "s"
        assert main(["study", "run", str(path), "--store", str(store), "--device", "cpu", "--quiet"]) == 0
        monkeypatch.setattr(Loop, "run", lambda *_, **__: pytest.fail("trained"))
        words = ["stability", "--study", str(path), "--store", str(store), "--quiet"]
        assert main([*words, "--json"]) == 0
        values = json.loads(capsys.readouterr().out.splitlines()[-1])
        runs = read(store, load_specs(path))
        assert values["arms"]["scaled"]["scores"] == [
            run.score for run in runs if run and run.spec.prompt.method == "scaled"
        ]
        assert main([*words, "--seeds", "3"]) == 2
        assert "has seeds of its own; drop --seeds" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            ([*WORDS, "--seeds", "1"], "1 seeds have no spread; at least 2 are needed, and 20 to see anything"),
            ([*WORDS, "--vary", "init,ordr"], "unknown source of variance 'ordr'. Did you mean 'order'?"),
            ([*WORDS, "--vary", "draw"], "setting 'prompt-tuning' is trained on all rows, so no draw varies"),
            ([*WORDS, "--setting", "a: --alhpa 1"], "setting 'a': No such option: --alhpa"),
            ([*WORDS, "--setting", "a", "--setting", "b: --steps 4"], "settings 'a' and 'b' are the same runs"),
            ([*WORDS, "--method", "ept-str"], "unknown method 'ept-str'. Did you mean 'ept-star'?"),
            ([*WORDS, "--seed", "3"], "No such option: --seed"),
            (["stability", "--task", "lab/opinion"], "no model; give --model"),
            (["stability", "--model", "lab-t5-small"], "nothing to train on; give --task NAME"),
            (["stability", "--study", "x.toml", "--steps", "3"], "--study FILE holds what is trained; drop --steps"),
            (["stability", "--study", "x.toml"], "cannot read x.toml: No such file or directory"),
        ],
    )
    def test_mistakes_are_one_line_and_exit_code_2_and_nothing_is_written(
        self, words, line, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        assert main(words) == 2
        (found,) = capsys.readouterr().err.splitlines()
        assert line in found
        assert list(tmp_path.iterdir()) == []


def test_judging_needs_no_torch_until_runs_are_read():
    assert "torch" not in vars(stability)
