import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from softprompt import PromptClassifier, PromptRegressor, from_model
from softprompt.errors import BadInput
from softprompt.estimators import rows_of

GOOD, BAD = ["a good day", "very good", "good good"], ["a bad day", "very bad", "bad bad"]
TEXTS, LABELS = (GOOD + BAD) * 2, (["yes"] * 3 + ["no"] * 3) * 2
TRAINING = {"steps": 2, "batch_size": 4, "eval_every": 2}


@pytest.fixture(scope="module")
def backbone(tiny_t5):
    return from_model(*tiny_t5(), name="tiny-t5")


@pytest.fixture(scope="module")
def fitted(backbone):
    return PromptClassifier(backbone, training=TRAINING).fit(TEXTS, LABELS)


def test_classes_and_probabilities_are_in_one_order(fitted):
    chances = fitted.predict_proba(TEXTS)
    assert fitted.classes_.tolist() == ["no", "yes"]
    assert chances.shape == (12, 2)
    assert np.allclose(chances.sum(1), 1)
    assert (fitted.predict(TEXTS) == fitted.classes_[chances.argmax(1)]).all()
    assert fitted.score(TEXTS, LABELS) == pytest.approx(np.mean(fitted.predict(TEXTS) == np.array(LABELS)))


def test_what_it_predicts_is_what_the_stored_prompt_predicts(fitted, backbone):
    answers = fitted.prompt_.predict(TEXTS, model=backbone)
    assert fitted.predict(TEXTS).tolist() == [answer["label"] for answer in answers]


@pytest.mark.parametrize("missing", [float("nan"), None, pd.NA])
@pytest.mark.parametrize("form", [list, pd.Series])
def test_an_answer_that_is_missing_is_no_class(missing, form, backbone):
    with pytest.raises(BadInput, match="answer 3 of y is missing"):
        PromptClassifier(backbone, training=TRAINING).fit(TEXTS, form([*LABELS[:2], missing, *LABELS[3:]]))


def test_the_seed_alone_decides_the_result(backbone, fitted):
    copied: Any = clone(fitted)
    changed: Any = clone(fitted)
    again = copied.fit(TEXTS, LABELS)
    other = changed.set_params(random_state=1).fit(TEXTS, LABELS)
    assert again.model is backbone
    assert again.prompt_.vectors.equal(fitted.prompt_.vectors)
    assert not other.prompt_.vectors.equal(fitted.prompt_.vectors)


def test_classes_of_any_kind_come_back_as_they_were_given(backbone):
    numbers = PromptClassifier(backbone, training=TRAINING, label_words={7: "yes", 9: "no"})
    assert set(numbers.fit(TEXTS, [7, 9] * 6).predict(TEXTS)) <= {7, 9}
    assert set(numbers.prompt_.predict("good", model=backbone)[0]["scores"]) == {"yes", "no"}


@pytest.mark.parametrize("seed", range(8))
def test_the_only_row_of_a_class_is_trained_on(backbone, seed):
    estimator, answers = PromptClassifier(backbone), [0, 1] * 12 + [2, 3]
    rows: list[dict[str, Any]] = [{"text": str(number)} for number in range(26)]
    learned, held_out = estimator._parted(rows, answers, seed)
    assert rows[24:] == learned[-2:]
    assert len(held_out) == 2
    assert sorted(int(row["text"]) for row in learned + held_out) == list(range(26))
    assert estimator._parted(rows, list(range(26)), seed) == (rows, rows)


def test_a_blank_input_is_named_by_its_place_in_x(backbone):
    with pytest.raises(BadInput, match="input 21 of X is blank; give words"):
        PromptClassifier(backbone, training=TRAINING).fit([*(TEXTS * 2)[:20], " ", *TEXTS], ["yes", "no", "yes"] * 11)
    frame = pd.DataFrame({"title": ["", *TEXTS[1:]], "body": [*TEXTS[:2], " ", *TEXTS[3:]]})
    with pytest.raises(BadInput, match="input 3 of X is blank, in its column 'body'"):
        PromptClassifier(backbone, template="see {body}", training=TRAINING).fit(frame, LABELS)


def test_a_missing_cell_is_named_by_its_place_in_x(backbone):
    frame = pd.DataFrame({"title": [None, *TEXTS[1:]], "body": [*TEXTS[:2], None, *TEXTS[3:]]})
    with pytest.raises(BadInput, match="input 3 of X is missing, in its column 'body'; give words"):
        PromptClassifier(backbone, template="see {body}", training=TRAINING).fit(frame, LABELS)
    rows = [{"text": text} for text in TEXTS]
    with pytest.raises(BadInput, match="input 12 of X is missing; give words"):
        PromptClassifier(backbone, training=TRAINING).fit([*rows[:11], {"text": float("nan")}], LABELS)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"method": "lora"}, "'lora' trains weights, and an estimator keeps a prompt; choose another method"),
        ({"method": ["ept", "prompt-tuning"]}, "training has 2 prompts, and an estimator keeps one"),
        ({"seeds": [0, 1, 2]}, "training has 3 prompts"),
        ({"decode": "generate"}, "an answer that is written has none; leave decode out"),
    ],
)
def test_what_an_estimator_cannot_keep_or_answer_is_refused_before_training(backbone, training, message, monkeypatch):
    monkeypatch.setattr("softprompt.estimators.train", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(BadInput, match=message):
        PromptClassifier(backbone, training={**TRAINING, **training}).fit(TEXTS, LABELS)


def test_words_that_do_not_fit_are_named_by_their_classes(backbone):
    for words, message in (
        ({"yes": "red", "no": " red"}, "label word 'red' of 'no' is also another label's"),
        ({"yes": "", "no": "red"}, "the label word of 'yes' is empty"),
    ):
        with pytest.raises(BadInput, match=message):
            PromptClassifier(backbone, label_words=words, training=TRAINING).fit(TEXTS, LABELS)


def test_classes_for_a_regressor_are_refused_in_a_line(backbone):
    with pytest.raises(BadInput, match=r"y of a regressor holds numbers .*'yes'.*; classes go with PromptClassifier"):
        PromptRegressor(backbone, training=TRAINING).fit(TEXTS, LABELS)


def test_a_generator_of_numpy_is_a_seed(backbone):
    chosen = [PromptClassifier(backbone, random_state=np.random.RandomState(3))._seed() for _ in range(2)]
    assert chosen[0] == chosen[1]
    whole: Any = PromptClassifier(backbone).set_params(random_state=np.int64(3))
    assert whole._seed() == 3


def test_a_pickled_estimator_loads_its_model_again(lab_t5):
    fitted = PromptClassifier(lab_t5, training=TRAINING).fit(TEXTS, LABELS)
    again = pickle.loads(pickle.dumps(fitted))
    assert again.model == lab_t5.spec
    assert fitted.model is lab_t5
    np.testing.assert_allclose(again.predict_proba(TEXTS[:2]), fitted.predict_proba(TEXTS[:2]), atol=1e-5)


def test_a_pickled_estimator_whose_model_has_an_invented_name_takes_it_again(backbone):
    fitted = PromptClassifier(backbone, training=TRAINING).fit(TEXTS, LABELS)
    again = pickle.loads(pickle.dumps(fitted))
    told = r"'tiny-t5' is neither .*; if this estimator was pickled with .*: estimator\.set_params\(model=BACKBONE\)$"
    copied: Any = clone(again)
    for use in (lambda: again.predict(TEXTS), lambda: copied.fit(TEXTS, LABELS)):
        with pytest.raises(BadInput, match=told):
            use()
    np.testing.assert_array_equal(again.set_params(model=backbone).predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_columns_of_a_frame_are_read_by_the_template(backbone):
    frame = pd.DataFrame({"title": TEXTS, "body": TEXTS[::-1]})
    estimator = PromptClassifier(backbone, template="{title} : {body}", training=TRAINING).fit(frame, LABELS)
    assert estimator.n_features_in_ == 2
    assert estimator.prompt_.predict(frame.iloc[:1], model=backbone)[0]["text"] == f"{TEXTS[0]} : {TEXTS[-1]}"


def test_grid_search_and_pipelines_work(backbone):
    upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    steps = Pipeline([("upper", upper), ("prompt", PromptClassifier(backbone, training=TRAINING))])
    raising: Any = "raise"  # scikit-learn's stubs know numbers only
    search = GridSearchCV(steps, {"prompt__random_state": [0, 1]}, cv=2, error_score=raising).fit(TEXTS, LABELS)
    assert search.best_params_["prompt__random_state"] in (0, 1)
    assert len(search.predict(["good"])) == 1


def test_a_regressor_answers_with_finite_numbers(backbone):
    estimator = PromptRegressor(backbone, training=TRAINING).fit(TEXTS, np.arange(12) / 2)
    predicted = estimator.predict(TEXTS[:3])
    assert np.isfinite(predicted).all()
    assert np.isfinite(estimator.score(TEXTS, np.arange(12) / 2))


def test_the_mean_of_training_stands_in_for_an_answer_that_is_no_finite_number(backbone, monkeypatch):
    estimator = PromptRegressor(backbone, training=TRAINING).fit(TEXTS, np.arange(12) / 2)
    written = [{"output": text} for text in ("nan", "inf", "-Infinity", "1e999", "none", "", "3.5")]
    monkeypatch.setattr(estimator, "_answers", lambda texts: written)
    assert estimator.predict(TEXTS[:7]).tolist() == [2.75] * 6 + [3.5]


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("good", ["yes"], "X is a single input"),
        ([1.0, 2.0], ["yes", "no"], "input 1 of X is a float"),
        (np.zeros((2, 3)), ["yes", "no"], "X has shape"),
        (TEXTS, LABELS[:-1], "12 inputs in X and 11 answers in y"),
        (TEXTS, ["yes"] * 12, "y holds 1 class"),
        (pd.DataFrame({"answer": TEXTS}), LABELS, "a column of X is called 'answer'"),
        (pd.DataFrame({1: TEXTS, 2: TEXTS}), LABELS, "a column of X is called 1, which is no text"),
        (TEXTS, np.array([1, "no"] * 6, dtype=object), "y holds classes that cannot be sorted"),
        (TEXTS, np.array([b"yes", b"no"] * 6), "y holds classes that cannot be sorted"),
    ],
)
def test_what_cannot_be_fitted_is_named(backbone, texts, labels, message):
    with pytest.raises(BadInput, match=message):
        PromptClassifier(backbone, training=TRAINING).fit(texts, labels)


def test_inputs_are_lists_arrays_series_and_columns():
    wanted = [{"text": "a"}, {"text": "b"}]
    for given in (["a", "b"], np.array(["a", "b"]), np.array([["a"], ["b"]]), pd.Series(["a", "b"])):
        assert rows_of(given) == wanted


def test_an_estimator_that_is_not_fitted_says_so(backbone):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        PromptClassifier(backbone).predict(["a"])
