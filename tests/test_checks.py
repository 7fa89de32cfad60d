"""Numbers that mean nothing, values given twice, texts where a list is meant, and places that are taken are refused."""

# Users have no type checker: what these tests give is what it would refuse.
# pyright: reportArgumentType=false, reportCallIssue=false

import dataclasses
import math
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from softprompt import as_peft, from_model, predict, train
from softprompt.analysis.subjects import subjects
from softprompt.checks import listed, refuse_exists, require_different, require_numbers
from softprompt.cli._prompts import PromptGrid
from softprompt.cli._rows import OwnRows, with_options
from softprompt.errors import BadInput, UnknownName, in_python
from softprompt.inference.decoding import decoding
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import texts_or_rows
from softprompt.lab.demo import Demo
from softprompt.lab.mlm_head import HeadRecipe
from softprompt.metrics import score
from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt
from softprompt.regularizers import regularizers
from softprompt.settings import LandscapeSettings, ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, grid, run_all
from softprompt.study.stability import plan
from softprompt.tasks import Source, Task, custom_task, task
from softprompt.training import Plan, Run
from softprompt.training._keywords import prompts_from
from softprompt.training._resolved import refuse_twins, resolved

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
COLUMNS: dict[str, Any] = {"text_columns": ["text"], "label_column": "label"}
NAN, INFINITY = math.nan, math.inf
COUNTS = ("steps", "batch_size", "grad_accumulation", "tokens_per_batch", "max_length", "eval_every", "eval_rows",
          "test_rows", "patience", "shots", "shots_per_class", "max_new_tokens", "bucket")  # fmt: skip


@pytest.fixture(autouse=True)
def without_type_checks():
    """As users call the package: what annotations say is checked while other tests run, and not here."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def refused(kind: type[Exception], message: str) -> Any:
    """The error as a Python program reads it, from the message with the command line's options."""
    return pytest.raises(kind, match=in_python(message))


def a_prompt() -> SoftPrompt:
    identity = BackboneIdentity("model", "encoder-decoder", 4)
    return SoftPrompt(torch.zeros(2, 4), Provenance("prompt-tuning", identity, task=task("lab/opinion").to_json()))


class TestNumbers:
    @pytest.mark.parametrize("value", [-0.1, NAN, INFINITY, -INFINITY])
    @pytest.mark.parametrize("name", ["lr", "head_lr"])
    def test_a_learning_rate_is_finite_and_not_negative(self, name, value):
        with refused(BadInput, f"--{name.replace('_', '-')} must be 0 or more and finite, not {value}"):
            PromptSettings(**{name: value})

    @pytest.mark.parametrize("name", COUNTS)
    def test_what_counts_something_is_a_whole_number_from_1_on(self, name):
        option = f"--{name.replace('_', '-')}"
        for value in (0, -1):
            with refused(BadInput, f"{option} must be positive, not {value}"):
                TrainSettings(**{name: value})
        for value in (2.5, NAN, True, "3"):
            with refused(BadInput, f"{option} must be a whole number, not {value!r}"):
                TrainSettings(**{name: value})

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"epochs": 0}, "--epochs must be positive and finite, not 0"),
            ({"epochs": INFINITY}, "--epochs must be positive and finite, not inf"),
            ({"clip": NAN}, "--clip must be positive and finite, not nan"),
            ({"weight_decay": -0.01}, "--weight-decay must be 0 or more and finite, not -0.01"),
            ({"weight_decay": NAN}, "--weight-decay must be 0 or more and finite, not nan"),
            ({"warmup": -1}, "--warmup must be 0 or more, not -1"),
        ],
    )
    def test_settings_of_training_are_refused_that_would_train_nothing_or_nonsense(self, setting, message):
        with refused(BadInput, message):
            TrainSettings(**setting)

    def test_settings_at_the_edge_of_their_range_are_taken(self):
        TrainSettings(warmup=10, steps=10, weight_decay=0, epochs=0.5)
        TrainSettings(warmup=0, weight_decay=0.0)

    @pytest.mark.parametrize("name", ["schedule", "decode", "normalize", "loss"])
    def test_a_word_that_is_no_choice_is_refused_instead_of_read_as_another(self, name):
        with refused(UnknownName, f"unknown {name} 'linea'"):
            TrainSettings(**{name: "linea"})

    def test_the_nearest_name_is_not_searched_among_thousands(self, monkeypatch):
        assert "Did you mean 'name 7'" in str(UnknownName("prompt", "name7", [f"name {n}" for n in range(200)]))
        monkeypatch.setattr("difflib.get_close_matches", None)
        message = str(UnknownName("prompt", "name 7", [f"name {n}" for n in range(201)]))
        assert message.startswith("unknown prompt 'name 7'. Known: name 0, name 1, ")

    @pytest.mark.parametrize("seed", ["0", 0.5, True, [0, 1], None])
    def test_a_seed_is_a_whole_number(self, seed):
        with refused(BadInput, "the seed of initialization must be a whole number"):
            Seeds.all(seed)

    @pytest.mark.parametrize(
        ("prompt", "settings", "message"),
        [
            ({"lr": 0.0}, {}, "--lr must be positive and finite, not 0.0"),
            ({"head_lr": 0}, {}, "--head-lr must be positive and finite, not 0"),
            ({}, {"warmup": 11, "steps": 10}, "--warmup 11 is longer than the run of 10 steps"),
            ({}, {"warmup": 9, "epochs": 1, "batch_size": 16, "shots": 64}, "--warmup 9 is longer than the run of 4"),
        ],
    )
    def test_a_rate_that_trains_nothing_is_refused_by_training_and_read_in_old_runs(
        self, prompt, settings, message, tmp_path
    ):
        prompts, shared = (PromptSettings(**prompt),), TrainSettings(**settings)
        with refused(BadInput, message):
            train("lab/opinion", "lab-t5", prompts=prompts, settings=shared, output=tmp_path / "run")
        with refused(BadInput, message):
            run_all(RunSpec(task="lab/opinion", model="lab-t5", prompt=prompts[0], settings=shared), tmp_path / "store")
        assert not list(tmp_path.iterdir())
        stored = Plan(task=task("lab/opinion"), model=ModelSpec("lab-t5"), prompts=prompts, settings=shared).to_json()
        assert Plan.from_json(stored).settings == shared

    @pytest.mark.parametrize("name", ["batch_size", "max_new_tokens"])
    @pytest.mark.parametrize("value", [0, -1, 1.5])
    def test_sizes_of_evaluation_and_prediction_are_whole_numbers_from_1_on(self, name, value):
        prompt, sizes = a_prompt(), {name: value}
        for call in (lambda: evaluate(prompt, **sizes), lambda: predict(prompt, ["a text"], **sizes)):
            with refused(BadInput, f"--{name.replace('_', '-')} must be "):
                call()

    @pytest.mark.parametrize("length", [0, -5, 1.5])
    def test_a_task_bounds_its_texts_by_a_whole_number_of_tokens(self, length):
        with refused(BadInput, "--max-length must be "):
            dataclasses.replace(task("lab/opinion"), max_length=length)

    def test_a_number_of_seeds_is_one_number(self):
        spec = RunSpec(task="lab/opinion", model="lab-t5")
        for seeds in ([0, 1, 2], 2.0, "3"):
            with refused(BadInput, "--seeds must be a whole number"):
                plan({"one": spec}, seeds=seeds)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: LandscapeSettings(grid=5.0), "--grid must be a whole number, not 5.0"),
            (lambda: Demo(steps=0, output=Path("x")), "--steps must be positive, not 0"),
            (lambda: Demo(seeds=-1, output=Path("x")), "--seeds must be positive, not -1"),
            (lambda: HeadRecipe(lr=-1e-3), "--lr must be positive and finite, not -0.001"),
            (lambda: HeadRecipe(masked=0.0), "masked is a share of the tokens"),
            (lambda: run_all([], "store", fleet_size=0), "--fleet-size must be positive, not 0"),
            (lambda: regularizers("rn-emb:sigma=0.1,sigma=0.3"), "is given 'sigma' twice"),
        ],
    )
    def test_numbers_elsewhere_are_held_in_their_range(self, make, message):
        with refused(BadInput, message):
            make()

    def test_noise_varies_only_where_there_is_some(self):
        plain, noisy = (
            RunSpec(task="lab/opinion", model="m", prompt=prompt)
            for prompt in (PromptSettings(), PromptSettings(regularizer="rn-emb"))
        )
        with refused(BadInput, "no setting draws numbers while it trains, so no noise varies"):
            plan({"plain": plain}, seeds=2, vary=["noise"])
        dropped = dataclasses.replace(plain, settings=TrainSettings(backbone_dropout=True))
        for other in (noisy, dropped):
            assert list(plan({"plain": plain, "other": other}, seeds=2, vary=["noise"]).sets) == ["noise"]

    def test_none_is_a_number_that_is_not_given(self):
        require_numbers({"steps": None}, whole=True)


class TestGivenTwice:
    @pytest.mark.parametrize(
        ("grid", "message"),
        [
            ({"seed": (0, 1, 0)}, "--seed is given 0 twice"),
            ({"lr": (0.3, 0.30)}, "--lr is given 0.3 twice"),
            ({"method": ("ept", "ept")}, "--method is given 'ept' twice"),
            ({"method_option": ("m=2", "m=3")}, "--method-option is given 'm' twice"),
        ],
    )
    def test_prompts_of_the_command_line_differ(self, grid, message):
        with refused(BadInput, message):
            PromptGrid(**grid).prompts(PromptSettings())

    def test_an_option_of_all_methods_and_of_one_are_two_options(self):
        both = PromptGrid(method=("residual", "ept"), method_option=("m=2", "residual.m=3"))
        assert [prompt.options for prompt in both.prompts(PromptSettings())] == [{"m": "3"}, {"m": "2"}]

    def test_options_of_tasks_and_label_words_are_given_once(self):
        with refused(BadInput, "--task-option is given 'noise' twice"):
            with_options(task("lab/opinion"), ["noise=1", "noise=2"])
        with refused(BadInput, "--label-words is given 'a' twice"):
            OwnRows(data="x.csv", label_column="y", label_words=("a=1", "a=2")).task(None)

    @pytest.mark.parametrize(
        "twin",
        [
            PromptSettings(),
            PromptSettings(method="prompt-tuning", lr=0.3),
            PromptSettings(options={"m": "10"}),
            PromptSettings(units="rms", seeds=Seeds.all(0)),
        ],
    )
    def test_two_prompts_of_a_run_that_are_the_same_numbers_are_refused(self, twin):
        with refused(BadInput, r"prompts 1 and 3 of this run are the same \(prompt-tuning, seed 0\)"):
            refuse_twins([resolved(prompt) for prompt in (PromptSettings(), PromptSettings(lr=0.1), twin)])

    @pytest.mark.parametrize(
        "other",
        [
            PromptSettings(lr=0.1),
            PromptSettings(seeds=Seeds(noise=1)),
            PromptSettings(regularizer="rn-emb"),
            PromptSettings(deep=True),
        ],
    )
    def test_prompts_that_differ_in_one_thing_are_two(self, other):
        refuse_twins([resolved(prompt) for prompt in (PromptSettings(), other)])

    def test_a_run_with_two_equal_prompts_is_refused_before_anything_is_read(self, tmp_path):
        with refused(BadInput, "prompts 1 and 2 of this run are the same"):
            train("lab/opinion", "lab-t5", prompts=[PromptSettings(), PromptSettings()], output=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_plan_of_a_run_that_was_made_with_two_equal_prompts_is_still_read(self):
        made = Plan(
            task=task("lab/opinion"), model=ModelSpec("m"), prompts=(PromptSettings(),) * 2, settings=TrainSettings()
        )
        assert Plan.from_json(made.to_json()).prompt_names() == ["00-prompt-tuning-seed0", "01-prompt-tuning-seed0"]

    def test_an_axis_of_a_study_has_each_value_once(self):
        with refused(BadInput, "seed is given 0 twice"):
            grid(task="lab/opinion", model="lab-t5", seed=[0, 1, 0])

    def test_columns_metrics_tasks_methods_and_prompts_are_given_once(self, tmp_path):
        with refused(BadInput, "--text-column is given 'a' twice"):
            custom_task("x.csv", text_columns=["a", "a"], label_column="b")
        with refused(BadInput, "--metric is given 'accuracy' twice"):
            custom_task("x.csv", text_columns=["a"], label_column="b", metrics=["accuracy", "accuracy"])
        with refused(BadInput, "--method is given 'ept' twice"):
            Demo(methods=["ept", "ept"], output=tmp_path)
        with refused(BadInput, "--prompt is given 'a' twice"):
            subjects([tmp_path], prompts=["a", "a"])
        with refused(BadInput, "labels is given 'good' twice"):
            Task(name="t", source=Source(), template="{a}", labels=("good", "good"))

    def test_what_is_equal_by_value_is_given_twice(self):
        with refused(BadInput, "x is given 1 twice; give each once"):
            require_different("x", [2, 1.0, 1])
        require_different("x", [1, "1"])


class Table:
    """What a DataFrame looks like from far."""

    columns = ("text", "label")

    def __iter__(self):
        return iter(self.columns)


class TestLists:
    @pytest.mark.parametrize("given", ["text", b"text", {"a": 1}, {"a"}, 3, None, Table()])
    def test_what_is_no_list_of_values_is_refused(self, given):
        with refused(BadInput, f"rows takes a list, not a {type(given).__name__}"):
            listed("rows", given, single=())

    @pytest.mark.parametrize("given", [["a", "b"], ("a", "b"), iter(["a", "b"]), dict.fromkeys(["a", "b"]).keys()])
    def test_every_list_of_values_is_taken(self, given):
        assert listed("rows", given) == ["a", "b"]
        assert listed("rows", "ab") == ["ab"]
        assert listed("rows", range(2)) == [0, 1]

    def test_one_text_or_one_row_is_one_input(self):
        assert texts_or_rows("hello there") == ["hello there"]
        assert texts_or_rows({"passage": "hello", "number": None}) == [{"passage": "hello", "number": None}]
        assert texts_or_rows(["a", {"passage": "b"}]) == ["a", {"passage": "b"}]

    @pytest.mark.parametrize("given", [Table(), {"passage": ["a", "b"]}, {"train": Table()}, 7, None, b"text"])
    def test_what_python_would_go_through_otherwise_is_no_list_of_inputs(self, given):
        with refused(BadInput, "inputs takes a list"):
            predict(a_prompt(), given)

    @pytest.mark.parametrize("given", [["ab", "cd"], None, 3, b"text", ("passage", "text")])
    def test_an_input_is_a_text_or_a_row(self, given):
        with refused(BadInput, f"input 2 is a {type(given).__name__}, not a text or a row"):
            predict(a_prompt(), ["a text", given])

    @pytest.mark.parametrize(("value", "fault"), [(["a"], "holds a list"), ({}, "holds a dict"), (NAN, "is empty")])
    def test_a_cell_that_is_no_text_is_not_read_as_its_python_form(self, value, fault):
        with refused(BadInput, f"column 'passage' {fault}"):
            task("lab/opinion").render({"passage": value})

    def test_one_prompt_is_a_run_of_one_and_a_name_is_none(self, tmp_path):
        settings: Any = {"settings": TrainSettings(steps=1), "output": tmp_path / "run"}
        with refused(UnknownName, "unknown task 'nothing'"):
            train("nothing", "lab-t5", prompts=PromptSettings(), **settings)
        for prompts in ("ept", {"method": "ept"}):
            with refused(BadInput, "prompts takes a list"):
                train("lab/opinion", "lab-t5", prompts=prompts, **settings)

    def test_one_column_metric_or_method_is_a_list_of_one(self, tmp_path):
        (tmp_path / "rows.csv").write_text("message,label\na,x\nb,y\n")
        made = custom_task(tmp_path / "rows.csv", text_columns="message", label_column="label", metrics="accuracy")
        assert (made.template, made.metrics) == ("{message}", ("accuracy",))
        with refused(BadInput, "--label-words takes a list, not a str"):
            custom_task(tmp_path / "rows.csv", text_columns="message", label_column="label", label_words="ab")
        assert Demo(methods="ept", tasks="lab/opinion", output=tmp_path / "out").methods == ("ept",)
        assert score("accuracy", [1], [1]) == {"accuracy": 1.0}

    def test_what_a_task_has_several_of_are_tuples(self):
        plain = {"name": "t", "source": Source(), "template": "{a}"}
        made = Task(**plain, labels=["good", "bad"], metrics="macro-f1", truncate="a", headline=["macro-f1"])
        assert (made.labels, made.metrics, made.truncate) == (("good", "bad"), ("macro-f1",), ("a",))
        for name in ("labels", "label_values"):
            with refused(BadInput, f"{name} takes a list, not a str"):
                Task(**{**plain, name: "positive"})

    @pytest.mark.parametrize(
        ("fields", "error", "what"),
        [
            ({"answer": "class"}, UnknownName, "unknown answer of a task 'class'"),
            ({"labels": (1, 2)}, BadInput, "label 1 is no text; give what the model answers as labels, as '1'"),
            ({"label_values": (0, 1, 2)}, BadInput, "3 label_values for 2 labels; give one for each"),
            ({"class_names": ("x",)}, BadInput, "1 class_names for 2 labels; give one for each"),
            ({"metrics": ()}, BadInput, "a task needs a metric; give at least one, as"),
            ({"headline": "f1"}, BadInput, "headline 'f1' is no metric of the task"),
            ({"window": "b"}, BadInput, "window 'b' is no column of template '{a}'; write it there, or ''"),
            (
                {"window": "a"},
                BadInput,
                "window 'a' is for answers in free text, and a label would be",
            ),
            ({"window": "a", "answer": "number", "labels": ()}, BadInput, "and a number would be that of the first"),
        ],
    )
    def test_a_task_whose_parts_do_not_agree_is_refused_when_it_is_made(self, fields, error, what):
        with refused(error, what):
            Task(**{"name": "t", "source": Source(), "template": "{a}", "labels": ("good", "bad"), **fields})

    def test_one_source_of_variance_is_a_list_of_one(self):
        spec = RunSpec(task="lab/opinion", model="lab-t5")
        assert list(plan({"one": spec}, seeds=2, vary="init").sets) == ["init"]

    def test_runs_of_a_study_are_a_list_of_them_or_one(self, tmp_path):
        with refused(BadInput, "specs takes a list, not a dict"):
            run_all({"one": 1}, tmp_path)
        with refused(UnknownName, "unknown method 'absent'"):
            run_all(RunSpec(task="lab/opinion", model="lab-t5", prompt=PromptSettings(method="absent")), tmp_path)

    def test_a_path_is_one_path(self, tmp_path):
        with refused(BadInput, str(tmp_path / "absent")):
            subjects(str(tmp_path / "absent"))

    def test_a_way_to_decode_that_does_not_exist_is_not_generation(self, lab_t5):
        with refused(UnknownName, "unknown way to decode 'score'"):
            decoding(task("lab/opinion"), lab_t5, "score")


class TestKinds:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: TrainSettings(calibrate=1), "--calibrate must be true or false, not 1"),
            (lambda: TrainSettings(backbone_dropout="no"), "--backbone-dropout must be true or false, not 'no'"),
            (lambda: PromptSettings(deep="no"), "--deep must be true or false, not 'no'"),
            (lambda: PromptSettings(options=None), "--options must be names with their values, not None"),
            (lambda: PromptSettings(max_norm="3"), "--max-norm must be a number, not '3'"),
            (lambda: PromptSettings(context_loss=True), "--context-loss must be a number, not True"),
            (lambda: PromptSettings(method=3), "--method must be a text, not 3"),
            (lambda: PromptSettings(sources=5), "sources takes a list, not a int"),
            (lambda: PromptSettings(seeds=5), "the seeds of a prompt are a Seeds"),
            (lambda: TrainSettings(label_smoothing="0.1"), "--label-smoothing must be a number, not '0.1'"),
            (lambda: TrainSettings(class_weights=5), "--class-weights takes a list"),
            (lambda: ModelSpec("m", embedding_scale="2"), "--embedding-scale must be a number, not '2'"),
            (lambda: LandscapeSettings(seed="1"), "--seed must be a whole number, not '1'"),
            (lambda: train(ROWS, "lab-t5", settings={"steps": 2}), "settings takes TrainSettings, not a dict"),
            (lambda: train(ROWS, "lab-t5", prompts=[{"method": "ept"}]), "prompts takes PromptSettings, not a dict"),
            (lambda: train(ROWS, "lab-t5", output=5), "--output must be a text, not 5"),
            (lambda: train(ROWS, "lab-t5", prompt_length=3, options=5), "--options must be names with their values"),
            (lambda: custom_task(ROWS, **COLUMNS, name=3), "--name must be a text, not 3"),
            (lambda: custom_task(ROWS, **COLUMNS, delimiter=3), "--delimiter must be a text, not 3"),
            (lambda: custom_task(ROWS, **COLUMNS, instruction=None), "--instruction must be a text, not None"),
            (lambda: custom_task(ROWS, **COLUMNS, label_words=[0, 1]), "the label word of 'x' is 0; give a text"),
            (lambda: custom_task(ROWS, **COLUMNS, label_words={"x": None, "y": "a"}), "label word of 'x' is None"),
            (lambda: evaluate(a_prompt(), test_rows="3"), "--test-rows must be a whole number, not '3'"),
            (lambda: evaluate(a_prompt(), max_bad_rows="1"), "--max-bad-rows must be a whole number, not '1'"),
        ],
    )
    def test_a_value_of_another_kind_is_one_line(self, make, message):
        with refused(BadInput, message):
            make()

    def test_what_numpy_and_torch_call_a_number_is_stored_as_a_plain_one(self):
        prompt = PromptSettings(
            lr=np.float32(0.5), max_norm=np.float32(1), deep=np.True_, options={"prompt_length": np.int64(3)},
            seeds=Seeds.all(np.int64(4)),
        )  # fmt: skip
        settings = TrainSettings(steps=np.int64(2), calibrate=np.True_, clip=torch.tensor(2.0), class_weights=(1, 2.5))
        values = [prompt.lr, prompt.max_norm, prompt.deep, prompt.options["prompt_length"], prompt.seeds.order]
        values += [settings.steps, settings.calibrate, settings.clip, settings.class_weights]
        assert values == [0.5, 1.0, True, 3, 4, 2, True, 2.0, "1,2.5"]
        assert [type(value) for value in values] == [float, float, bool, int, int, int, bool, float, str]

    def test_an_array_is_a_list_of_its_numbers(self):
        prompts = prompts_from(None, {"seeds": np.arange(2), "lr": np.array([0.5, 1.0]), "prompt_length": np.int64(3)})
        assert [(prompt.lr, prompt.seeds.order) for prompt in prompts] == [(0.5, 0), (0.5, 1), (1.0, 0), (1.0, 1)]
        assert prompts_from(None, {"seeds": np.int64(3)})[0].seeds == Seeds.all(3)

    def test_a_plan_that_could_not_be_read_again_is_not_written(self):
        run = Plan(
            task=task("lab/opinion"), model=ModelSpec("m"), prompts=(PromptSettings(),), settings=TrainSettings()
        )
        assert run.written()
        with refused(
            BadInput, "this run could not be read again, and is not begun: .*'max_bad_rows' of the stored plan"
        ):
            dataclasses.replace(run, max_bad_rows=0.5).written()


class TestOtherThings:
    @pytest.mark.parametrize("call", [evaluate, lambda prompt: predict(prompt, ["a"])])
    @pytest.mark.parametrize("given", ["out/base", Path("out"), Run(Path("out"), [])])
    def test_a_path_or_a_run_is_no_stored_prompt(self, call, given):
        with refused(BadInput, rf"a {type(given).__name__} is no stored prompt; give run.prompt\(0\)"):
            call(given)

    @pytest.mark.parametrize("call", [a_prompt().attach, as_peft, lambda model: from_model(model, tokenizer=object())])
    def test_what_is_no_loaded_model_is_told_what_to_give(self, call, lab_t5):
        inside: Any = torch.nn.DataParallel(lab_t5.model)
        with torch.device("meta"):
            empty = type(lab_t5.model)(lab_t5.model.config)
        for given, message in [
            ("lab-gpt", "a loaded model is needed here, not a str; give what transformers loaded"),
            (None, "a loaded model is needed here, not a NoneType"),
            (lab_t5, "not a EncoderDecoderBackbone; give its .model"),
            (torch.nn.Linear(1, 1), "a Linear is no model of transformers; give a model that transformers loaded"),
            (inside, "a DataParallel is no model of transformers; give the model inside it, .module"),
            (empty, "is on the meta device and has no weights; load them"),
        ]:
            with refused(BadInput, message):
                call(given)

    def test_a_backbone_needs_a_tokenizer(self, lab_t5):
        with refused(BadInput, "a NoneType is no tokenizer; give the model's"):
            from_model(lab_t5.model, None)

    def test_a_run_names_how_many_prompts_it_has(self):
        with refused(BadInput, "this run has 0 prompts, counted from 0; 5 is none of them"):
            Run(Path("out"), []).prompt(5)

    def test_a_table_has_each_name_once(self):
        frame = pd.DataFrame([["a", "b", "x"]] * 2, columns=["text", "text", "label"])
        for given in (
            frame,
            pd.DataFrame([["a", "x"]], columns=pd.MultiIndex.from_tuples([("text", 1), ("label", 2)])),
        ):
            with refused(BadInput, "a DataFrame needs one name for each column"):
                custom_task(given, **COLUMNS)

    def test_labels_are_texts_or_whole_numbers_of_any_library(self):
        rows = [{"text": "a", "label": torch.tensor(n)} for n in (1, 0)]
        assert custom_task(rows, **COLUMNS).label_values == (0, 1)
        rows = [{"text": "a", "label": pd.Timestamp(f"2020-01-0{n}")} for n in (1, 2)]
        with refused(BadInput, "train rows:1: the label is a Timestamp; give a text or a whole number"):
            custom_task(rows, **COLUMNS)


def test_a_place_is_taken_by_a_file_a_folder_or_a_link_and_may_be_an_empty_folder(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        for empty_folder in (False, True):
            with pytest.raises(BadInput, match=f"{name}' exists already; remove it or choose another place for the x$"):
                refuse_exists(tmp_path / name, "the x", empty_folder=empty_folder)
    with pytest.raises(BadInput, match="exists already"):
        refuse_exists(tmp_path / "empty", "the x")
    refuse_exists(tmp_path / "empty", "the x", empty_folder=True)
    refuse_exists(tmp_path / "new", "the x")
    with pytest.raises(BadInput, match="exists already"):
        refuse_exists(tmp_path, "the x", empty_folder=True)
