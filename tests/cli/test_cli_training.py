"""What `softprompt train` parses, and what it prints where."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from softprompt.cli import main
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.tasks import TASKS, with_difficulty

from cli_kit import BASE, LAB


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a command with a `train` that only remembers what it was asked for."""
    from softprompt.training import Run

    seen: dict[str, Any] = {}

    def train(task: Any, model: Any, **named: Any) -> Run:
        seen.update(named, task=task, model=model)
        return Run(Path("run"), [result()])

    monkeypatch.setattr("softprompt.training.train", train)

    def ask(*words: str) -> dict[str, Any]:
        assert main(words) == 0
        return seen

    return ask


def result(**changed: Any) -> Any:
    from softprompt.training import Result

    scores = {"validation": {"accuracy": 0.75, "score": 0.75}, "test": {"accuracy": 0.5, "score": 0.5}}
    values: dict[str, Any] = {
        "run": "run", "prompt": "ept-star-seed0", "task": "glue/sst2", "method": "ept-star", "seed": 0,
        "metrics": scores, "best_step": 400, "trainable": 1152, "head": 770, "stored": 384, "seconds": 1.5,
        "status": "finished",
    }  # fmt: skip
    return Result(**{**values, **changed})


def test_without_options_training_gets_the_library_defaults(asked: Callable[..., dict[str, Any]]):
    seen = asked(*BASE)
    assert (seen["task"], seen["model"], seen["output"]) == (TASKS["glue/sst2"], ModelSpec("some/model"), Path("run"))
    assert seen["prompts"] == [PromptSettings()]
    assert seen["settings"] == TrainSettings()


@pytest.mark.parametrize("field", dataclasses.fields(TrainSettings), ids=lambda field: field.name)
def test_every_setting_has_an_option(field: dataclasses.Field, asked: Callable[..., dict[str, Any]]):
    words = {"schedule": "constant", "decode": "generate", "normalize": "mean", "loss": "labels"}
    words |= {"class_weights": "balanced", "label_smoothing": 0.5}
    value: Any = words.get(field.name, 7.0 if "float" in str(field.type) else field.type is bool or 7)
    option = f"--{field.name.replace('_', '-')}"
    given = [option] if value is True else [option, str(value)]
    expected = dataclasses.replace(TrainSettings(), **{field.name: value})
    assert asked(*BASE, *given)["settings"] == expected
    assert expected != TrainSettings()


@pytest.mark.parametrize("field", dataclasses.fields(PromptSettings), ids=lambda field: field.name)
def test_every_field_of_a_prompt_has_an_option(field: dataclasses.Field, asked: Callable[..., dict[str, Any]]):
    chosen: dict[str, tuple[list[str], Any]] = {
        "method": (["--method", "ept"], "ept"),
        "options": (["--method-option", "m=2"], {"m": "2"}),
        "init": (["--init", "vocabulary"], "vocabulary"),
        "units": (["--units", "rms"], "rms"),
        "context_loss": (["--context-loss", "0.5"], 0.5),
        "deep": (["--deep"], True),
        "regularizer": (["--regularizer", "rn-emb"], "rn-emb"),
        "sources": (["--source", "x"], ("x",)),
        "seeds": (["--seed", "7"], Seeds.all(7)),
    }
    words, value = chosen.get(field.name, ([f"--{field.name.replace('_', '-')}", "7"], 7))
    expected = dataclasses.replace(PromptSettings(), **{field.name: value})
    assert asked(*BASE, *words)["prompts"] == [expected]
    assert expected != PromptSettings()


def test_prompts_are_the_product_of_methods_rates_and_seeds(asked: Callable[..., dict[str, Any]]):
    words = [
        "--method", "ept", "--method", "residual", "--lr", "0.1", "--lr", "0.3", "--seed", "1", "--seed", "2",
        "--method-option", "m=2", "--method-option", "residual.passes=1", "--init", "vocabulary", "--head-lr", "0.01",
    ]  # fmt: skip
    expected = []
    for method, options in (("ept", {"m": "2"}), ("residual", {"m": "2", "passes": "1"})):
        for lr in (0.1, 0.3):
            for seed in (1, 2):
                prompt = PromptSettings(method=method, options=options, lr=lr, seeds=Seeds.all(seed))
                expected.append(dataclasses.replace(prompt, init="vocabulary", head_lr=0.01))
    assert asked(*BASE, *words)["prompts"] == expected


def test_options_of_a_lab_task_reach_training(asked: Callable[..., dict[str, Any]]):
    seen = asked(*LAB, "--task-option", "noise=4", "--task-option", "label_noise=0.1", "--task-option", "train=64")
    assert seen["task"] == with_difficulty(TASKS["lab/color"], noise=4, label_noise=0.1, train=64)
    assert seen["model"] == ModelSpec("lab-t5")


def test_units_and_the_guard_reach_every_prompt(asked: Callable[..., dict[str, Any]]):
    words = ["--method", "ept", "--method", "polar", "--units", "rms", "--max-norm", "4"]
    expected = [PromptSettings(method=method, units="rms", max_norm=4.0) for method in ("ept", "polar")]
    assert asked(*BASE, *words)["prompts"] == expected


def test_regularisers_are_joined_with_an_alpha_each(asked: Callable[..., dict[str, Any]]):
    words = ["--regularizer", "rn-emb:sigma=0.1", "--regularizer", "adv-emb"]
    assert asked(*LAB, *words)["prompts"][0].regularizer == "rn-emb:sigma=0.1+adv-emb"
    one = asked(*LAB, *words, "--alpha", "0.5")["prompts"][0].regularizer
    assert one == "rn-emb:sigma=0.1,alpha=0.5+adv-emb:alpha=0.5"
    two = asked(*LAB, *words, "--alpha", "0.5", "--alpha", "2")["prompts"][0].regularizer
    assert two == "rn-emb:sigma=0.1,alpha=0.5+adv-emb:alpha=2.0"
    both = asked(*LAB, "--regularizer", "rn-emb:sigma=0.1+adv-emb", "--alpha", "0.5")["prompts"][0].regularizer
    assert both == one


def test_an_option_of_one_method_goes_before_that_of_all(asked: Callable[..., dict[str, Any]]):
    words = ["--method", "residual", "--method", "prompt-tuning", "--prompt-length", "4"]
    prompts = asked(*LAB, *words, "--method-option", "residual.m=2", "--method-option", "m=3")["prompts"]
    assert [prompt.options["m"] for prompt in prompts] == ["2", "3"]


def test_every_regulariser_is_listed_with_its_options(capsys: pytest.CaptureFixture[str]):
    assert main(["methods", "regularizers", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["rn-emb"]["sigma"] == 0.3
    assert main(["methods", "regularizers"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in listed)


def test_restarts_reach_every_prompt(asked: Callable[..., dict[str, Any]]):
    words = ["--seed", "1", "--seed", "2", "--restarts", "3", "--restart-steps", "50"]
    expected = [PromptSettings(restarts=3, restart_steps=50, seeds=Seeds.all(seed)) for seed in (1, 2)]
    assert asked(*BASE, *words)["prompts"] == expected


def test_the_papers_learning_rate_is_told_beside_the_methods(capsys: pytest.CaptureFixture[str]):
    assert main(["methods", "list"]) == 0
    told = "EPT trains prompts with --units raw --lr 0.3,\nbut searches five rates for SuperGLUE\n"
    assert capsys.readouterr().err.endswith(told)


@pytest.mark.parametrize(
    ("method", "rates"), [("residual", {"lr in raw units", "lr in rms units"}), ("polar", {"lr in rms units"})]
)
def test_a_method_shown_has_a_learning_rate_for_each_of_its_units(
    method: str, rates: set[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["methods", "show", method, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name for name in shown if " in " in name} == rates
    assert shown["lr"] == shown[f"lr in {shown['units']} units"]


def test_seeds_by_purpose_override_the_common_one(asked: Callable[..., dict[str, Any]]):
    (prompt,) = asked(*BASE, "--seed", "5", "--draw-seed", "0", "--noise-seed", "9")["prompts"]
    assert prompt.seeds == Seeds(initialization=5, order=5, draw=0, noise=9)


def test_prompt_length_is_an_option_of_every_method(asked: Callable[..., dict[str, Any]]):
    prompts = asked(*BASE, "--method", "residual", "--method", "prompt-tuning", "--prompt-length", "20")["prompts"]
    assert [prompt.options for prompt in prompts] == [{"prompt_length": 20}] * 2


def test_other_options_reach_training_under_their_own_names(asked: Callable[..., dict[str, Any]]):
    seen = asked(
        *BASE, "--data-root", "rows", "--style", "t5", "--answers", "linear-head", "--dtype", "bfloat16",
        "--device", "cpu", "--revision", "abc", "--max-bad-rows", "3", "--track", "tensorboard", "--quiet",
        "--engine", "reference", "--quantize", "int8", "--embedding-scale", "2",
    )  # fmt: skip
    expected = {
        "data_root": Path("rows"), "style": "t5", "max_bad_rows": 3, "log_with": "tensorboard", "progress": False,
        "model": ModelSpec(
            "some/model", answers="linear-head", dtype="bfloat16", device="cpu", revision="abc", engine="reference",
            quantize="int8", embedding_scale=2.0,
        ),
    }  # fmt: skip
    assert {name: seen[name] for name in expected} == expected


def test_the_data_root_may_come_from_the_environment(
    asked: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOFTPROMPT_DATA_ROOT", "elsewhere")
    assert asked(*BASE)["data_root"] == Path("elsewhere")


def test_training_names_the_folder_where_the_command_does_not(asked: Callable[..., dict[str, Any]]):
    assert asked(*BASE[:-2])["output"] is None


@pytest.mark.parametrize("option", ["--task", "--data"])
def test_a_file_of_rows_becomes_a_task(option: str, asked: Callable[..., dict[str, Any]], tmp_path: Path):
    rows = tmp_path / "rows.csv"
    rows.write_text("title,body,class\nfine,it works,1\npoor,it broke,0\n")
    words = ["--text-column", "title", "--text-column", "body", "--label-column", "class", "--metric", "accuracy"]
    pairs = ["--label-words", "1=good", "--label-words", "0=bad"]
    task = asked("train", option, str(rows), "--model", "m", "--test-data", str(rows), *words, *pairs)["task"]
    assert (task.template, task.target, task.labels) == ("title: {title} body: {body}", "class", ("bad", "good"))
    assert (task.source.files, task.metrics) == ({"train": str(rows), "test": str(rows)}, ("accuracy",))


def test_train_json_prints_one_line_a_prompt_and_tables_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from softprompt.training import Run

    results = [result(), result(method="ept", seed=1, metrics={"test": {"accuracy": float("nan")}})]
    monkeypatch.setattr("softprompt.training.train", lambda *given, **named: Run(Path("run"), results))
    assert main([*BASE, "--json"]) == 0
    printed = capsys.readouterr()
    first, second = map(json.loads, printed.out.splitlines())
    assert first == json.loads(json.dumps(results[0].to_json()))
    assert set(first) >= {
        "run", "task", "method", "seed", "metrics", "best_step", "trainable", "stored", "seconds",
    }  # fmt: skip
    assert (second["seed"], second["metrics"]) == (1, {"test": {"accuracy": None}})
    assert "ept-star-seed0" in printed.err


def test_several_seeds_are_summed_up_by_method_units_and_learning_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The best score is 0.9, chance 0.5: below 0.7 is stuck, and so is a prompt that never was scored."""
    from softprompt.training import Run

    def one(score: float | None, **changed: Any) -> Any:
        metrics = {} if score is None else {"test": {"score": score}}
        return result(**{"metrics": metrics, "majority": 0.5, "lr": 0.3, "units": "raw", **changed})

    results = [
        one(0.9, norm=20.0, token_norms=4.0),
        one(0.6, norm=30.0, token_norms=6.0),
        one(None),
        one(0.7, lr=1.0, units="rms", norm=500.0, token_norms=100.0),
    ]
    monkeypatch.setattr("softprompt.training.train", lambda *given, **named: Run(Path("run"), results))
    assert main(BASE) == 0
    each, several = capsys.readouterr().err.split("\n\n")
    assert "30 = 6 token norms (band 1-10)" in each
    assert "500 = 100 token norms (above the band 1-10)" in each
    assert [line.split() for line in several.splitlines()[1:]] == [
        ["ept-star", "raw", "0.3", "3", "0.75", "0.2121", "0.6", "0.6667", "5", "384"],
        ["ept-star", "rms", "1", "1", "0.7", "0.7", "0", "100", "384"],
    ]


def test_without_json_training_prints_the_folder_of_the_run(
    asked: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    asked(*BASE)
    assert capsys.readouterr().out == "run\n"


def test_resume_goes_on_with_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from softprompt.training import Run

    seen = []

    def resume(run: Path, *, model: str | None, device: str, progress: bool) -> Run:
        seen.append((run, model, device, progress))
        return Run(run, [result()])

    monkeypatch.setattr("softprompt.training.resume", resume)
    assert main(["train", "--resume", "run", "--model", "moved", "--device", "cpu", "--quiet"]) == 0
    assert seen == [(Path("run"), "moved", "cpu", False)]
    assert capsys.readouterr().out == "run\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
@pytest.mark.parametrize("words", [["methods", "list"], ["tasks", "list", "--json"], ["--help"]])
def test_a_full_standard_output_is_one_line(words: list[str]):
    command = [sys.executable, "-m", "softprompt", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    message = "softprompt: cannot write the output: No space left on device; free some space, or write elsewhere"
    assert (done.returncode, done.stderr.splitlines()) == (2, [message])
