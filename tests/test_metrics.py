import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from softprompt.errors import BadInput, UnknownName
from softprompt.inference.class_scores import ClassScores
from softprompt.inference.intervals import intervals
from softprompt.metrics import (
    ERRORS,
    MEASURES,
    METRICS,
    Judged,
    best_judged,
    headline_score,
    is_stuck,
    known_score,
    majority,
    refuse_other_metrics,
    score,
)
from softprompt.tasks import custom_task
from softprompt.training._finish import constant_score

# The first call imports scikit-learn or scipy.
PATIENT = settings(deadline=None)

binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)
ternary = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)
value = st.integers(-20, 20).map(float)


def counts(pairs, positive):
    hit = sum(p == t == positive for p, t in pairs)
    return hit, sum(p == positive for p, _ in pairs), sum(t == positive for _, t in pairs)


def plain_f1(pairs, positive):
    hit, predicted, actual = counts(pairs, positive)
    return 2 * hit / (predicted + actual) if predicted + actual else 0.0


def apply(name, pairs):
    return METRICS[name](*map(list, zip(*pairs, strict=True)))


@PATIENT
@given(ternary)
def test_accuracy_is_the_share_of_hits(pairs):
    assert apply("accuracy", pairs) == pytest.approx(np.mean([p == t for p, t in pairs]))


@PATIENT
@given(binary)
def test_f1_equals_the_formula(pairs):
    assert apply("f1", pairs) == pytest.approx(plain_f1(pairs, 1))
    assert apply("f1a", pairs) == apply("f1", pairs)


@PATIENT
@given(ternary)
def test_macro_f1_is_the_mean_over_classes_that_appear(pairs):
    classes = {c for pair in pairs for c in pair}
    assert apply("macro-f1", pairs) == pytest.approx(np.mean([plain_f1(pairs, c) for c in classes]))


@PATIENT
@given(binary)
def test_matthews_equals_the_formula(pairs):
    table = Counter(pairs)
    tp, tn, fp, fn = table[1, 1], table[0, 0], table[1, 0], table[0, 1]
    scale = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert apply("matthews", pairs) == pytest.approx((tp * tn - fp * fn) / scale if scale else 0.0)


@PATIENT
@given(st.lists(st.tuples(value, value), min_size=2, max_size=20))
def test_pearson_equals_the_formula_and_is_0_where_it_has_none(pairs):
    x, y = np.array(pairs).T
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt((x @ x) * (y @ y))
    expected = x @ y / scale if scale > 1e-9 else 0.0
    assert apply("pearson", pairs) == pytest.approx(expected, abs=1e-9)


@PATIENT
@given(st.lists(st.tuples(value, value), min_size=2, max_size=20))
def test_spearman_is_pearson_of_the_ranks(pairs):
    columns = [list(column) for column in zip(*pairs, strict=True)]
    ranks = [[sum(o < v for o in c) + (c.count(v) + 1) / 2 for v in c] for c in columns]
    assert apply("spearman", pairs) == pytest.approx(METRICS["pearson"](*ranks), abs=1e-9)


@pytest.mark.parametrize("name", ["accuracy", "f1", "macro-f1", "matthews"])
def test_an_invalid_answer_is_no_better_than_the_other_class(name):
    targets = [0, 1, 1, 0, 1, 0]
    assert METRICS[name](targets, targets) == 1
    for row, target in enumerate(targets):
        wrong, invalid = ([*targets[:row], answer, *targets[row + 1 :]] for answer in (1 - target, -1))
        assert METRICS[name](invalid, targets) < 1
        if name in ("accuracy", "f1"):
            assert METRICS[name](invalid, targets) == METRICS[name](wrong, targets)


def test_an_invalid_answer_of_three_is_a_miss_and_no_class():
    # Class 0: hit 1 of 2; class 1 and 2 are right. No class -1 enters the mean.
    assert METRICS["macro-f1"]([-1, 0, 1, 2], [0, 0, 1, 2]) == pytest.approx((2 / 3 + 1 + 1) / 3)


@pytest.mark.parametrize("ids", [(0, 1), (0, 2), (1, 2), (1, 0)])
def test_macro_f1_does_not_depend_on_the_numbers_of_the_classes_that_occur(ids):
    first, second = ids
    # Class `first`: hit 1 of 2 and never wrong; class `second` is right.
    assert METRICS["macro-f1"]([-1, second, first], [first, second, first]) == pytest.approx((2 / 3 + 1) / 2)


@PATIENT
@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_of_the_f1_that_a_report_shows_for_each_class(pairs):
    predictions, targets = map(list, zip(*pairs, strict=True))
    shown = ClassScores.of(("no", "yes"), predictions, targets)
    occur = {value for pair in pairs for value in pair if value >= 0}
    assert METRICS["macro-f1"](predictions, targets) == pytest.approx(np.mean([shown.f1[c] for c in occur]))


@pytest.mark.parametrize("answer", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_no_number_counts_as_minus_one(name, answer):
    assert METRICS[name]([answer, 1.0, 3.0], [2.0, 1.0, 3.0]) == METRICS[name]([-1.0, 1.0, 3.0], [2.0, 1.0, 3.0])


def test_no_number_counts_as_one_below_the_lowest_of_negative_targets():
    targets = [-50.0, -20.0, -10.0]
    assert METRICS["pearson"]([-50.0, -20.0, math.nan], targets) == METRICS["pearson"]([-50.0, -20.0, -51.0], targets)


@PATIENT
@given(st.lists(st.tuples(value, value), min_size=1, max_size=20))
def test_errors_equal_their_formulas(pairs):
    errors = np.array([p - t for p, t in pairs])
    assert apply("rmse", pairs) == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert apply("mae", pairs) == pytest.approx(np.mean(np.abs(errors)))


@pytest.mark.parametrize(
    ("targets", "error"),
    [([2.0, 5.0, 9.0], 7.0), ([8.0, 2.0, 9.0], 6.0), ([4.0, 4.0], 4.0), ([-4.0, -4.0], 4.0), ([0.0, 0.0], 1.0)],
)
def test_the_error_of_no_number_is_the_largest_that_the_targets_allow(targets, error):
    assert METRICS["mae"]([math.nan, *targets[1:]], targets) == pytest.approx(error / len(targets))
    assert METRICS["rmse"]([math.inf, *targets[1:]], targets) == pytest.approx(error / len(targets) ** 0.5)


def test_an_error_counts_negatively_as_a_score_and_is_not_averaged_with_a_correlation():
    assert headline_score({"rmse": 2.0, "pearson": 0.5}, ["rmse"]) == -2.0
    assert headline_score({"rmse": 2.0, "mae": 1.0}, ["rmse", "mae"]) == -1.5
    with pytest.raises(BadInput, match="the mean of rmse and pearson is no score"):
        refuse_other_metrics("number", ["rmse", "pearson"], ["rmse", "pearson"])


def test_an_error_of_ones_own_counts_negatively_in_scores_and_intervals(monkeypatch):
    monkeypatch.setitem(METRICS, "worst", lambda predictions, gold: max(map(abs, np.subtract(predictions, gold))))
    monkeypatch.setitem(MEASURES, "number", (*MEASURES["number"], "worst"))
    ERRORS.add("worst")
    rows = [{"text": "a", "y": 1.0}, {"text": "b", "y": 2.0}]
    try:
        task = custom_task(rows, text_columns=["text"], number_column="y", metrics=["worst"])
        gold, answers = [1.0, 2.0, 3.0, 4.0], [1.5, 2.0, 3.0, 3.0]
        assert headline_score(score(task.metrics, answers, gold), task.scores) == -1
        bounds = intervals(task.metrics, task.scores, answers, gold)
        assert bounds["score"] == (-bounds["worst"][1], -bounds["worst"][0])
        assert constant_score(task, gold) == -1.5
    finally:
        ERRORS.remove("worst")


def test_every_metric_measures_some_kind_of_answer():
    assert {name for names in MEASURES.values() for name in names} == set(METRICS)
    with pytest.raises(BadInput, match="'rmse' does not measure answers by label"):
        refuse_other_metrics("label", ["rmse"])


def test_correlation_of_one_row_is_0():
    assert METRICS["pearson"]([1.0], [2.0]) == METRICS["spearman"]([1.0], [2.0]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "answers", "f1", "exact"),
    [
        ("The cat!", ["cat"], 1.0, 1.0),
        ("a red cat", ["the cat", "dog"], 2 / 3, 0.0),
        ("dog", ["cat", "a dog."], 1.0, 1.0),
        ("cat cat", ["cat"], 2 / 3, 0.0),
        ("", ["cat"], 0.0, 0.0),
    ],
)
def test_text_is_scored_as_squad(prediction, answers, f1, exact):
    assert METRICS["squad-f1"]([prediction], [answers]) == pytest.approx(f1)
    assert METRICS["exact-match"]([prediction], [answers]) == exact


def test_text_scores_are_means_over_rows():
    rows = ["cat", "dog", "red cat", "x"], [["cat"], ["cat"], ["cat"], ["x"]]
    assert METRICS["squad-f1"](*rows) == pytest.approx((1 + 0 + 2 / 3 + 1) / 4)
    assert METRICS["exact-match"](*rows) == 0.5


def test_score_names_each_metric():
    assert score(("accuracy", "f1"), [1, 0], [1, 1]) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}
    with pytest.raises(UnknownName, match=r"unknown metric 'acuracy'\. Did you mean 'accuracy'"):
        score(("acuracy",), [1], [1])
    with pytest.raises(BadInput, match="1 predictions for 2 rows"):
        score(("accuracy",), [1], [1, 1])
    with pytest.raises(BadInput, match="0 predictions for 0 rows"):
        score(("accuracy",), [], [])


def test_majority_is_the_accuracy_of_a_constant_answer():
    gold = [2, 1, 2, 0, 1, 2]
    best, share = majority(gold)
    assert (best, share) == (2, METRICS["accuracy"]([2] * 6, gold))
    assert majority([1, 0, 0, 1]) == (0, 0.5)
    with pytest.raises(BadInput, match="no majority class"):
        majority([])


@pytest.mark.parametrize(
    ("score", "chance", "ceiling", "stuck"),
    [
        (0.75, 0.5, 1.0, False),
        (0.7499, 0.5, 1.0, True),
        (0.4, 0.0, 0.7, False),
        (0.5, 0.5, 0.5, True),  # nothing above chance
        (0.4, 0.5, 0.45, True),
        (float("nan"), 0.5, 1.0, True),
    ],
)
def test_stuck_is_not_half_of_the_way_from_chance_to_the_ceiling(score, chance, ceiling, stuck):
    assert is_stuck(score, chance, ceiling) is stuck


def test_scores_of_which_some_are_missing_are_ordered_by_the_first_that_is_known():
    scores = [(-0.5, 0.9), (None, None), (None, -0.4), (0.0,), ()]
    assert sorted(scores, key=lambda pair: known_score(*pair)) == [(None, None), (), (-0.5, 0.9), (None, -0.4), (0.0,)]


@pytest.mark.parametrize(
    ("judged", "step"),
    [
        ([], None),
        ([Judged(0, 0.5, 0.7), Judged(2, 0.5, 0.1), Judged(4, 0.4, 0.1)], 0),
        ([Judged(0, 0.5, 0.7), Judged(2, 0.6, 0.9), Judged(4, 0.6, 0.8), Judged(6, 0.6, 0.8)], 4),
        ([Judged(2, 0.5), Judged(4, 0.5, 0.1), Judged(6, 0.5)], 2),
    ],
)
def test_of_equal_scores_the_smaller_label_loss_is_best_and_words_are_left_for_a_higher_score_only(judged, step):
    best = best_judged(judged)
    assert (None if best is None else best.step) == step
