"""scikit-learn's own checks of an estimator, on rows of numbers that are spelled as texts.

scikit-learn makes no texts and skips estimators of texts, so the checks see an estimator that spells each row of
numbers and is otherwise ours. All checks run with a stand-in for training and answering, because they look at the
estimator; those that depend on what a fit leaves also run with real prompts of one step.
"""

import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data
from softprompt import PromptClassifier, PromptRegressor, estimators, from_model
from softprompt.errors import BadInput

# What does not hold of estimators of texts, and why (docs/data.md names this file).
EXCEPTIONS = {
    "two-dimensional input": "rows of numbers are no texts; the checks see an estimator that spells them",
    "poor_score": "a prompt of a tiny random model learns nothing in a step, so no check asks for a score",
    "check_array_api_input": "texts are no arrays of a device; skipped by scikit-learn",
}
# Checks that depend on what a fit leaves.
REAL = ("check_estimators_pickle", "check_fit_idempotent", "check_dict_unchanged")
TRAINING = {"steps": 1, "batch_size": 2, "eval_every": 1, "eval_rows": 2, "max_length": 32}
MODEL: dict[str, Any] = {}


def spelled(numbers):
    return [" ".join(f"{value:.0f}" for value in row) for row in numbers]


# The methods of the estimators are looked up at run time, behind this class.
Anything: Any = object


class Spelling(Anything):
    """Rows of numbers as texts, checked as scikit-learn's estimators check them."""

    numeric = False
    training, answers, template, label_words = TRAINING, "auto", None, None

    def __init__(self, model: Any = None, *, random_state: Any = 0):
        self.model, self.random_state = model, random_state

    def _backbone(self):
        return MODEL["tiny"]

    def fit(self, X: Any, y: Any) -> Any:
        X, y = validate_data(self, X, y, y_numeric=self.numeric)
        features = self.n_features_in_
        super().fit(spelled(X), y)
        self.n_features_in_ = features
        return self

    def _answers(self, texts):
        check_is_fitted(self)
        return super()._answers(spelled(validate_data(self, texts, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = True, False
        for kind in (tags.classifier_tags, tags.regressor_tags):
            if kind is not None:
                kind.poor_score = True
        return tags


class SpellingClassifier(Spelling, PromptClassifier):
    pass


class SpellingRegressor(Spelling, PromptRegressor):
    numeric = True


def checks(kind):
    pairs: Any = estimator_checks_generator(kind())
    for estimator, check in pairs:
        name = getattr(check, "func", check).__name__
        if name not in EXCEPTIONS:
            yield pytest.param(estimator, check, name, id=f"{kind.__name__}-{name}")


ALL = [*checks(SpellingClassifier), *checks(SpellingRegressor)]
# scikit-learn passes numbers as a column where one dimension is meant, and warns about it itself.
pytestmark = pytest.mark.filterwarnings(f"ignore::{DataConversionWarning.__module__}.DataConversionWarning")


@pytest.fixture(scope="module", autouse=True)
def tiny(tiny_t5):
    MODEL["tiny"] = from_model(*tiny_t5(), name="tiny")


def stand_in_train(splits, model, **keywords):
    classes = len(keywords.get("label_words", ()))
    return SimpleNamespace(
        prompt=lambda number: classes, results=[SimpleNamespace(metrics={"validation": {"score": 0.0}})]
    )


def stand_in_predict(classes, rows, **keywords):
    drawn = [zlib.crc32(row["text"].encode()) for row in rows]
    if not classes:
        return [{"output": str(number % 100)} for number in drawn]
    chances = [np.random.default_rng(number).dirichlet(np.ones(classes)) for number in drawn]
    return [{"scores": dict(enumerate(each.tolist()))} for each in chances]


@pytest.mark.parametrize(("estimator", "check", "name"), ALL)
def test_every_check_of_scikit_learn_passes(estimator, check, name, monkeypatch):
    monkeypatch.setattr(estimators, "train", stand_in_train)
    monkeypatch.setattr(estimators, "predict", stand_in_predict)
    check(estimator)


@pytest.mark.parametrize(("estimator", "check", "name"), [case for case in ALL if case.values[2] in REAL])
def test_what_a_fit_leaves_passes_its_checks_with_real_prompts(estimator, check, name):
    check(estimator)


def test_numbers_that_are_no_classes_are_refused():
    with pytest.raises(BadInput, match="Unknown label type: continuous; y of a classifier holds classes"):
        PromptClassifier(MODEL["tiny"]).fit(["a", "b", "c"], [0.5, 1.25, 2.0])
