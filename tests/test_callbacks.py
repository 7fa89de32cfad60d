"""Callbacks: what they see, what they may do, and that they change no number; and a finished run in a notebook."""

import contextlib
import dataclasses
import random
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from softprompt import EarlyStopping
from softprompt.backbones import from_model
from softprompt.errors import BadInput, CallbackFailed, UnknownName
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import predict
from softprompt.interop.stored import load
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.training import Run, read_record, resume, train

from kit import review_task, same_files

PROMPTS = [PromptSettings(options={"prompt_length": 2}, seeds=Seeds.all(seed)) for seed in (0, 1)]
SETTINGS = TrainSettings(steps=6, eval_every=2, batch_size=4, eval_rows=4)
FIRST, SECOND = "prompt-tuning-seed0", "prompt-tuning-seed1"
TIMES = ("timing.jsonl", "state.json", "manifest.json")


@dataclass
class Watcher:
    """Writes down what it sees, and does what may not change a run."""

    seen: list[Any] = field(default_factory=list)

    def on_step(self, step):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(step.step)
        self.seen.append(("step", step.step, dict(step.losses)))
        step.losses.clear()

    def on_evaluation(self, evaluation):
        self.seen.append(("evaluation", evaluation.step, dict(evaluation.scores), len(evaluation.history(FIRST))))
        evaluation.scores.clear()
        evaluation.best.clear()

    def on_end(self, run):
        self.seen.append(("end", [result.prompt for result in run.results]))


class Failing:
    def __init__(self, moment, step=3):
        self.step = step
        setattr(self, moment, self.fail)

    def fail(self, event):
        if getattr(event, "step", self.step) == self.step:
            raise ValueError("no such dashboard")


class Stopping:
    def on_evaluation(self, evaluation):
        if evaluation.step == 2:
            evaluation.stop(SECOND, "as a test")


@pytest.fixture(scope="module")
def backbone(tiny_t5):
    return from_model(*tiny_t5(), name="tiny")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def start(task, backbone):
    def go(folder, *callbacks):
        return train(task, backbone, prompts=PROMPTS, settings=SETTINGS, output=folder, callbacks=callbacks)

    return go


def losses_of(run):
    return [row["loss"] for row in read_record(run.folder / FIRST / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def plain(start, tmp_path_factory):
    return start(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def watched(start, tmp_path_factory):
    watcher = Watcher()
    return start(tmp_path_factory.mktemp("watched") / "run", watcher), watcher.seen


def test_a_run_with_callbacks_leaves_the_same_bytes(plain, watched):
    assert same_files(plain.folder, watched[0].folder, ignore=TIMES)


def test_a_callback_sees_every_step_every_evaluation_and_the_end(watched):
    run, seen = watched
    assert [(what, number) for what, number, *_ in seen[:-1]] == [
        ("step", 1), ("step", 2), ("evaluation", 2), ("step", 3), ("step", 4), ("evaluation", 4),
        ("step", 5), ("step", 6), ("evaluation", 6),
    ]  # fmt: skip
    assert seen[-1] == ("end", [FIRST, SECOND])
    assert [values[FIRST] for what, _, values, *_ in seen[:-1] if what == "step"] == losses_of(run)
    scores = [row["score"] for row in read_record(run.folder / FIRST / "metrics.jsonl") if "split" in row]
    assert [(values[FIRST], *count) for _, _, values, *count in seen[:-1] if count] == list(
        zip(scores, (1, 2, 3), strict=True)
    )


def test_a_prompt_that_a_callback_stops_ends_there_and_the_other_trains_as_before(start, plain, tmp_path):
    run = start(tmp_path / "run", Stopping())
    assert [result.status for result in run.results] == ["finished", "stopped early at step 2: as a test"]
    assert [result.prompt_steps for result in run.results] == [6, 2]
    # From step 3 on it computes in passes of its own, which round otherwise.
    assert losses_of(run) == pytest.approx(losses_of(plain), rel=1e-4)


@pytest.mark.parametrize(("moment", "step"), [("on_step", 3), ("on_evaluation", 4)])
def test_a_callback_that_raises_stops_the_run_which_goes_on_without_it(start, backbone, plain, moment, step, tmp_path):
    message = rf"callback Failing\.{moment} failed at step {step} \(ValueError: no such dashboard\); a checkpoint"
    with pytest.raises(CallbackFailed, match=message) as failure:
        start(tmp_path / "run", Failing(moment, step))
    assert isinstance(failure.value.__cause__, ValueError)
    assert not (tmp_path / "run" / FIRST / "result.json").exists()
    resume(tmp_path / "run", model=backbone)
    assert same_files(plain.folder, tmp_path / "run", ignore=TIMES)


def test_a_callback_that_raises_at_the_end_leaves_a_finished_run(start, plain, tmp_path):
    with pytest.raises(CallbackFailed, match=r"Failing\.on_end failed at the end; the run is finished"):
        start(tmp_path / "run", Failing("on_end"))
    assert same_files(plain.folder, tmp_path / "run", ignore=TIMES)


def test_a_resumed_run_stops_prompts_as_an_uninterrupted_one(start, backbone, tmp_path):
    whole = start(tmp_path / "whole", EarlyStopping(patience=1))
    with pytest.raises(CallbackFailed):
        start(tmp_path / "cut", Failing("on_step", 3), EarlyStopping(patience=1))
    resume(tmp_path / "cut", model=backbone, callbacks=[EarlyStopping(patience=1)])
    assert any("no better score in 1 evaluations" in result.status for result in whole.results)
    for name in (FIRST, SECOND):
        assert same_files(whole.folder / name, tmp_path / "cut" / name)


def test_early_stopping_ends_at_a_score_that_is_good_enough(start, tmp_path):
    run = start(tmp_path / "run", EarlyStopping(until=0.0))
    assert {result.status for result in run.results} == {"stopped early at step 2: its score reached 0"}


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (object(), "callback object is not an object with a method on_step, on_evaluation or on_end"),
        (EarlyStopping, "callback EarlyStopping is not an object"),
        (print, "callback builtin_function_or_method is not an object"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_written(start, callback, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        start(tmp_path / "run", callback)
    assert not (tmp_path / "run").exists()


def test_early_stopping_without_a_rule_is_refused():
    for wrong, given in (
        ({}, "None and a score `until` of None"),
        ({"patience": 0, "until": 0.9}, r"0 and .* of 0\.9"),
    ):
        with pytest.raises(BadInput, match=f"a patience of {given}; give a patience of 1 or more, a score, or both$"):
            EarlyStopping(**wrong)


def test_a_callback_gets_a_prompt_as_it_would_be_stored(task, backbone, tmp_path):
    reports = []

    class Scorer:
        def on_evaluation(self, evaluation):
            reports.append(evaluate(evaluation.prompt(SECOND), task=task, split="validation", model=backbone))

    settings = dataclasses.replace(SETTINGS, eval_rows=None)
    run = train(task, backbone, prompts=PROMPTS, settings=settings, output=tmp_path / "run", callbacks=[Scorer()])
    rows = [row for row in read_record(run.folder / SECOND / "metrics.jsonl") if row.get("split") == "validation"]
    assert [report.metrics["score"] for report in reports] == [row["score"] for row in rows]
    assert [report.label_loss for report in reports] == pytest.approx([row["label_loss"] for row in rows])
    chances = [row["scores"][row["gold"]] for row in reports[0].rows]
    assert reports[0].label_loss == pytest.approx(-np.log(chances).mean())


def test_a_prompt_that_was_not_scored_cannot_be_stopped(start, tmp_path):
    class Misspelt:
        def on_evaluation(self, evaluation):
            evaluation.stop("prompt-tuning")

    with pytest.raises(CallbackFailed, match=f"no prompt 'prompt-tuning' was scored now; name one of {FIRST}"):
        start(tmp_path / "run", Misspelt())


def test_the_history_of_a_run_is_a_table_of_its_records(plain):
    history = plain.history
    assert set(history["prompt"]) == {FIRST, SECOND}
    assert history[(history.prompt == FIRST) & (history.split == "train")]["loss"].tolist() == losses_of(plain)
    assert history[history.split == "validation"]["step"].tolist() == [2, 4, 6] * 2


def test_the_best_prompt_of_a_run_is_that_with_the_highest_validation_score(plain):
    def scored(prompt, score):
        return dataclasses.replace(plain.results[0], prompt=prompt, metrics={"validation": {"score": score}})

    dropped = dataclasses.replace(plain.results[0], metrics={})
    run = Run(plain.folder, [dropped, scored("a", 0.5), scored("b", 0.7), scored("c", 0.7)])
    assert run.best.prompt == "b"
    with pytest.raises(BadInput, match=r"no prompt of .* was scored before it was dropped"):
        _ = Run(plain.folder, [dropped]).best


def test_a_notebook_shows_a_table_and_curves_with_every_text_escaped(plain):
    text = plain._repr_html_()
    root = ElementTree.fromstring(text.replace("&#9632;", ""))
    rows = [[*row.itertext()] for row in root.iter("tr")]
    assert rows[0] == ["prompt", "best step", "validation", "test", "status"]
    assert [row[-4:] for row in rows[1:]] == [
        [str(r.best_step), f"{r.metrics['validation']['score']:.4f}", f"{r.metrics['test']['score']:.4f}", "finished"]
        for r in plain.results
    ]
    assert len([*root.iter("polyline")]) == 2
    bad = Run(plain.folder, [dataclasses.replace(plain.results[0], status="<script>&")])._repr_html_()
    assert "<script>" not in bad
    assert "&lt;script&gt;&amp;" in bad


def test_a_bar_in_a_notebook_without_its_widgets_shows_its_end_and_says_what_is_missing(monkeypatch, caplog, capsys):
    from rich import console as rich_console
    from softprompt.training import _progress

    monkeypatch.setattr(rich_console, "_is_jupyter", lambda: True)
    monkeypatch.setattr(_progress, "find_spec", lambda name: None)
    loop: Any = SimpleNamespace(members=[], step=3, steps=4)
    with _progress.bar(True) as show:
        show(loop, {"ept-seed0": 0.5})
    (line,) = [message for message in caplog.messages if "notebook" in message]
    assert "pip install ipywidgets" in line
    shown = capsys.readouterr().err
    assert "3/4" in shown
    assert "loss 0.500" in shown


def test_of_several_trackers_each_is_known_and_installed(task, backbone, tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'wandb'"):
        train(task, backbone, output=tmp_path / "run", log_with="tensorboard, wandbb")
    assert not (tmp_path / "run").exists()


def same_prompt(run, other):
    return all(run.prompt(name).vectors.equal(other.prompt(name).vectors) for name in (FIRST, SECOND))


def test_a_callback_may_train_on_the_same_model_and_another_thread_may_not(task, backbone, start, plain, tmp_path):
    small: Any = {"settings": TrainSettings(steps=1, batch_size=4), "prompts": PROMPTS[0]}
    refusals: list[str] = []

    def elsewhere():
        try:
            train(task, backbone, output=tmp_path / "elsewhere", **small)
        except BadInput as error:
            refusals.append(str(error))

    class Training:
        def on_step(self, step):
            if step.step == 1:
                train(task, backbone, output=tmp_path / "within", **small)
                thread = threading.Thread(target=elsewhere)
                thread.start()
                thread.join()
                # As a program may do between two steps.
                backbone.model.train()

    run = start(tmp_path / "run", Training())
    assert ["another thread trains on 'tiny'" in line for line in refusals] == [True]
    assert not (tmp_path / "elsewhere").exists()
    assert same_prompt(run, plain)
    elsewhere()
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16), lambda: float64()],
    ids=["no_grad", "inference_mode", "autocast", "float64"],
)
def test_what_the_program_has_switched_on_does_not_reach_a_training(start, plain, backbone, around, tmp_path):
    with around():
        run = start(tmp_path / "run")
        inside = run.prompt(0).predict(["a good film"], model=backbone)
    assert same_prompt(run, plain)
    assert inside == plain.prompt(0).predict(["a good film"], model=backbone)


@pytest.mark.parametrize("method", ["p-tuning-lstm", "lora", "dept"])
def test_another_default_dtype_reaches_no_method_that_makes_modules(task, backbone, method, tmp_path):
    options: Any = {"settings": TrainSettings(steps=2, batch_size=4), "prompts": PromptSettings(method=method)}
    plain = train(task, backbone, output=tmp_path / "plain", **options)
    with float64():
        run = train(task, backbone, output=tmp_path / "run", **options)
        stored = load(run.folder)
        inside = predict(stored, ["a good film"], model=backbone)
    assert inside == predict(load(plain.folder), ["a good film"], model=backbone)


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
