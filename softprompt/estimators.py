"""scikit-learn estimators around `train` and `predict`: texts in, classes or numbers out."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from .backbones import AbstractBackbone
from .errors import BadInput
from .inference.predict import kept_model, predict
from .prompts.methods import Method
from .prompts.prompt import SoftPrompt
from .settings import ModelSpec
from .tasks import ABSENT, finite_number, is_a, label_words_of, plain_cell, row_dicts, template_columns, value_of
from .training import prompts_from, train

TEXT, TARGET = "text", "answer"


def rows_of(texts: Any) -> list[dict[str, Any]]:
    """The rows that X stands for: texts (a list, an array, a Series), dicts, or the rows of a DataFrame.

    Raises:
        BadInput: one text alone, an array of several columns, something that is neither a text nor a row, or a column
            whose name is no text.
    """
    if is_a(texts, "pandas", "DataFrame"):
        _refuse_names(texts.columns)
        return list(row_dicts(texts))
    if isinstance(texts, str | Mapping):
        raise BadInput("X is a single input; give a list of texts or rows")
    values = np.asarray(texts, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise BadInput(f"X has shape {values.shape}, a list of texts or a DataFrame is needed")
    for number, value in enumerate(values, 1):
        if not isinstance(value, str | Mapping):
            raise BadInput(f"input {number} of X is a {type(value).__name__}, a text or a row is needed")
        if isinstance(value, Mapping):
            _refuse_names(value)
    return [dict(value) if isinstance(value, Mapping) else {TEXT: str(value)} for value in values]


def _refuse_names(columns: Iterable[Any]) -> None:
    """Refuse a column whose name is no text, which no template could name."""
    for name in columns:
        if not isinstance(name, str):
            raise BadInput(f"a column of X is called {name!r}, which is no text; rename it")


def _refuse_missing(answers: Any) -> None:
    """Refuse answers without a value, which would be a class of their own.

    Raises:
        BadInput: with the number of the first.
    """
    values = np.asarray(answers, dtype=object)
    for number, value in enumerate(values if values.ndim == 1 else (), 1):
        if plain_cell(value) is None:
            raise BadInput(f"answer {number} of y is missing, as NaN or None; leave such inputs out")


def _refuse_blank(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Refuse inputs without a value or a word, by their numbers in X, which the rows of training no longer have.

    Raises:
        BadInput: with the number of the first.
    """
    for number, row in enumerate(rows, 1):
        for name in columns:
            value = value_of(row, name)
            is_missing = value is ABSENT or plain_cell(value) is None
            if is_missing or (isinstance(value, str) and not value.strip()):
                where = "" if list(columns) == [TEXT] else f", in its column {name!r}"
                what = "missing" if is_missing else "blank"
                raise BadInput(f"input {number} of X is {what}{where}; give words to learn from, or leave it out")


def _refuse_no_single_prompt(keywords: Mapping[str, Any]) -> None:
    """Refuse keywords of `train` that train several prompts, or weights in place of one; an estimator keeps a prompt.

    Raises:
        BadInput: which of the two.
    """
    given = keywords.get("prompts")
    prompts = prompts_from(given, {} if given is not None else keywords)
    if len(prompts) > 1:
        raise BadInput(
            f"training has {len(prompts)} prompts, and an estimator keeps one; give one method, lr and seed, and "
            "compare several by GridSearchCV or softprompt.train"
        )
    if Method.of(prompts[0]).weights:
        raise BadInput(
            f"{prompts[0].method!r} trains weights, and an estimator keeps a prompt; choose another method, or take "
            "softprompt.train"
        )


class _PromptEstimator(BaseEstimator):
    """What both estimators share: parameters, rows, training."""

    model: Any
    answers: str
    training: Mapping[str, Any] | None
    random_state: Any

    def _train(self, rows: list[dict[str, Any]], answers: Sequence[Any], **how: Any) -> None:
        """Train on rows with these answers, and keep the prompt that is best on held-out rows."""
        if len(rows) != len(answers):
            raise BadInput(f"{len(rows)} inputs in X and {len(answers)} answers in y; give one answer an input")
        if not rows:
            raise BadInput("X is empty; give inputs to learn from")
        columns = [name for name in rows[0] if name != TARGET]
        if TARGET in rows[0]:
            raise BadInput(f"a column of X is called {TARGET!r}, which names the answer here; rename it")
        labelled = [{**row, TARGET: value} for row, value in zip(rows, answers, strict=True)]
        _refuse_blank(rows, template_columns(how["template"]) if how["template"] else columns)
        seed = self._seed()
        learned, held_out = self._parted(labelled, answers, seed)
        keywords = {"seeds": seed, "text_columns": columns, **how, **dict(self.training or {})}
        _refuse_no_single_prompt(keywords)
        splits = {"train": learned, "validation": held_out, "test": held_out}
        with tempfile.TemporaryDirectory() as folder:
            output = keywords.pop("output", None) or Path(folder) / "run"
            run = train(splits, self._backbone(), output=output, **keywords)
            self.prompt_: SoftPrompt = run.prompt(0)
        self.metrics_ = run.results[0].metrics["validation"]
        self.n_features_in_ = len(columns)

    def _seed(self) -> int:
        """The seed of this fit; a generator of numpy gives its next one."""
        if self.random_state is None or isinstance(self.random_state, Integral):
            return int(self.random_state or 0)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _parted(self, rows: list[dict[str, Any]], answers: Sequence[Any], seed: int) -> tuple[list[Any], list[Any]]:
        """Training rows, and a tenth of all that chooses the best step; few rows do both."""
        counts = Counter(answers) if isinstance(self, ClassifierMixin) else None
        # The only row of a class is trained on: held out, it would be of a class that the prompt never saw.
        several = [n for n, answer in enumerate(answers) if counts is None or counts[answer] > 1]
        if len(rows) < 20 or not several:
            return rows, rows
        strata = None if counts is None else [answers[n] for n in several]
        size = max(min(len(rows) // 10, len(several) // 2), len(set(strata or (1,))))
        learned, held_out = train_test_split(several, test_size=size, stratify=strata, random_state=seed)
        learned += sorted(set(range(len(rows))) - set(several))
        return [rows[n] for n in learned], [rows[n] for n in held_out]

    def _backbone(self) -> AbstractBackbone:
        if isinstance(self.model, AbstractBackbone):
            return self.model
        if isinstance(self.model, ModelSpec):
            return self._again(self.model)
        return kept_model(ModelSpec(self.model, answers=self.answers))

    def _again(self, spec: ModelSpec) -> AbstractBackbone:
        """The model of a spec, which may be all that a pickle has kept of one that `from_model` made under any name."""
        try:
            return kept_model(spec)
        except BadInput as error:
            raise BadInput(
                f"{error.message}; if this estimator was pickled with a model that was loaded before, give that again: "
                "estimator.set_params(model=BACKBONE)"
            ) from error

    def _answers(self, texts: Any) -> list[dict[str, Any]]:
        check_is_fitted(self, "prompt_")
        return predict(self.prompt_, rows_of(texts), model=self._backbone())

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: of a loaded backbone only what it is, and it is loaded or given again where needed."""
        state: dict[str, Any] = {**super().__getstate__()}  # pyright: ignore[reportGeneralTypeIssues]
        if isinstance(self.model, AbstractBackbone):
            state["model"] = self.model.spec
        return state

    def __sklearn_clone__(self) -> "_PromptEstimator":
        """A fresh estimator that shares the frozen model, which a copy would hold in memory twice."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        """Inputs are texts, not arrays of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags


class PromptClassifier(ClassifierMixin, _PromptEstimator):
    """A classifier of texts: a soft prompt in front of a frozen language model.

        PromptClassifier("google-t5/t5-base", training={"steps": 300, "lr": 0.3}).fit(texts, labels).predict(texts)

    After `fit`: `prompt_` (the SoftPrompt), `classes_`, `metrics_` (on the held-out rows), `n_features_in_`.

    Args:
        model: hub id or folder of the frozen model, a `ModelSpec`, or a loaded backbone. A pickle keeps only the name
            of that and loads it again; where the name is an invented one, give it by `set_params(model=BACKBONE)`.
        template: text with {column} fields; None shows the columns one after the other. Plain texts are column `text`.
        label_words: class -> word that stands for it; None takes the classes' own names.
        answers: as in `load_backbone`.
        training: keywords of `train`: method, lr, steps, restarts, regularizer, output ...
        random_state: seed of the prompt and of the rows that are held out, or numpy's `RandomState`.
    """

    def __init__(
        self,
        model: "str | ModelSpec | AbstractBackbone" = "lab-t5",
        *,
        template: str | None = None,
        label_words: Mapping[Any, str] | None = None,
        answers: str = "auto",
        training: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.model, self.template, self.label_words, self.answers = model, template, label_words, answers
        self.training, self.random_state = training, random_state

    def fit(self, X: Any, y: Any) -> "PromptClassifier":
        """Train the prompt on texts and their classes.

        Raises:
            BadInput: inputs that are no texts, one class only, or a class without a word.
            SoftPromptError: as in `train`.
        """
        _refuse_missing(y)
        rows, classes = rows_of(X), np.asarray(y)
        if classes.ndim != 1:
            raise BadInput(f"y has shape {classes.shape}, one class an input is needed")
        try:
            kind = type_of_target(classes)
            self.classes_, places = np.unique(classes, return_inverse=True)
        except TypeError as error:
            raise BadInput(f"y holds classes that cannot be sorted ({error}); give texts or numbers alone") from error
        if kind.startswith("continuous"):
            raise BadInput(f"Unknown label type: {kind}; y of a classifier holds classes; use PromptRegressor")
        if len(self.classes_) < 2:
            raise BadInput(f"y holds {len(self.classes_)} class; at least two are needed")
        training = dict(self.training or {})
        if "generate" in (training.get("decode"), getattr(training.get("settings"), "decode", None)):
            raise BadInput(
                "a classifier gives probabilities of its classes, and an answer that is written has none; leave decode "
                "out of training"
            )
        self._train(rows, places.tolist(), template=self.template, label_column=TARGET, label_words=self._words())
        return self

    def _words(self) -> list[str]:
        words = self.label_words or {}
        missing = [value for value in self.classes_ if words and value not in words]
        if missing:
            raise BadInput(f"no word is given for class {plain_cell(missing[0])!r}; give one for each class, or none")
        # By the classes themselves: rows have their numbers.
        values = tuple(self.classes_.tolist())
        return list(label_words_of(values, [words.get(value, str(value)) for value in self.classes_]))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, [inputs, classes], in the order of `classes_`."""
        answers = self._answers(X)
        return np.array([list(answer["scores"].values()) for answer in answers]).reshape(-1, len(self.classes_))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each input."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(1)]


def _numbers(answers: Any) -> np.ndarray:
    """The answers as numbers.

    Raises:
        BadInput: one is none.
    """
    try:
        return np.asarray(answers, dtype=float)
    except (TypeError, ValueError) as error:
        raise BadInput(f"y of a regressor holds numbers ({error}); classes go with PromptClassifier") from error


class PromptRegressor(RegressorMixin, _PromptEstimator):
    """A regressor of texts: a soft prompt in front of a frozen language model, which writes or computes the number.

    After `fit`: `prompt_`, `metrics_`, `n_features_in_`, and `mean_`, which stands in for an answer that is no number.

    Args:
        model: hub id or folder of the frozen model, a `ModelSpec`, or a loaded backbone; an encoder answers by a
            linear head.
        template: as in PromptClassifier.
        answers: as in `load_backbone`; an encoder needs "linear-head".
        training: keywords of `train`.
        random_state: seed of the prompt and of the rows that are held out, or numpy's `RandomState`.
    """

    def __init__(
        self,
        model: "str | ModelSpec | AbstractBackbone" = "lab-t5",
        *,
        template: str | None = None,
        answers: str = "auto",
        training: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.model, self.template, self.answers = model, template, answers
        self.training, self.random_state = training, random_state

    def fit(self, X: Any, y: Any) -> "PromptRegressor":
        """Train the prompt on texts and their numbers.

        Raises:
            BadInput: inputs that are no texts, or answers that are no numbers.
            SoftPromptError: as in `train`.
        """
        rows, numbers = rows_of(X), _numbers(y)
        if numbers.ndim != 1 or not np.isfinite(numbers).all():
            raise BadInput("y has to hold one finite number an input")
        self.mean_ = float(numbers.mean())
        self._train(rows, numbers.tolist(), template=self.template, number_column=TARGET)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The number of each input; the mean of the training numbers where the answer is none, or not finite."""
        numbers = [finite_number(answer["output"]) for answer in self._answers(X)]
        return np.array([self.mean_ if number is None else number for number in numbers])
