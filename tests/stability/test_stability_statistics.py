"""The statistics of spreads over seeds, beside scipy, numpy and drawn samples."""

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from softprompt.errors import BadInput
from softprompt.study.power import (
    detectable_difference,
    detectable_ratio,
    detectable_ratio_by_brown_forsythe,
    power_of_ratio,
    seeds_for_ratio,
)
from softprompt.study.stability import (
    against,
    spread,
)
from softprompt.study.statistics import bootstrap, brown_forsythe, deviation, holm, ratio_interval

from stability_kit import FIRST, SECOND, arm


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
        assert ratio_interval(FIRST, SECOND) == ratio_interval(FIRST, SECOND)

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
        page = (Path(__file__).parent.parent.parent / "docs" / "stability.md").read_text()
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
