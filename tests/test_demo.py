"""The demonstration: what it refuses, what it writes, what it prints, and that what it advises works."""

import dataclasses
import json
import re
import shlex
import sys
from types import SimpleNamespace

import pytest
import torch
from experiments.pretraining.recipes import RECIPES, build_model, build_tokenizer
from experiments.pretraining.weights import write_backbone, write_manifest
from softprompt import builtin as backbones
from softprompt.backbones import load_backbone
from softprompt.cli import _demo, main
from softprompt.cli._several import summary
from softprompt.data import Examples, Ragged
from softprompt.errors import BadInput, RunExists, UnknownName
from softprompt.inference.answers import Answers
from softprompt.inference.evaluate import evaluate
from softprompt.lab import demo as lab_demo
from softprompt.lab.compared import best_of, no_prompt, turned
from softprompt.lab.demo import Demo
from softprompt.lab.instructions import instructed, instruction
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks import TASKS, task, with_difficulty
from softprompt.tasks._lab import LAB
from softprompt.training import Interrupted, Result, read_plan, read_results
from softprompt.world import KINDS

STEPS = 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A random lab-t5 of an eighth of its width, where the shipped one would be."""
    root = tmp_path_factory.mktemp("weights")
    recipe = dataclasses.replace(RECIPES["lab-t5"], width=16, feed_forward=16, layers=1, decoder_layers=1)
    write_backbone(build_model(recipe), build_tokenizer(recipe.kind), root / "lab-t5")
    write_manifest(root)
    return root


@pytest.fixture(autouse=True)
def small(weights, monkeypatch):
    """That backbone by its name, and few rows."""
    monkeypatch.setattr(backbones, "WEIGHTS", weights)
    monkeypatch.setattr(lab_demo, "VALIDATION_ROWS", 8)
    monkeypatch.setattr(lab_demo, "TEST_ROWS", 24)
    original = lab_demo.with_difficulty
    monkeypatch.setattr(lab_demo, "with_difficulty", lambda task, **options: original(task, train=64, **options))


@pytest.fixture(scope="module")
def shown(weights, tmp_path_factory):
    """One whole demonstration of two methods on two tasks, and what it printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("demo") / "out"
    printed, patch = io.StringIO(), pytest.MonkeyPatch()
    with patch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setattr(backbones, "WEIGHTS", weights)
        patched.setattr(lab_demo, "VALIDATION_ROWS", 8)
        patched.setattr(lab_demo, "TEST_ROWS", 24)
        patched.setattr(lab_demo, "with_difficulty", lambda task, **options: with_difficulty(task, train=64, **options))
        patched.setattr(sys, "argv", ["/somewhere/bin/softprompt"])
        words = ["--task", "lab/opinion", "--task", "lab/color", "--method", "prompt-tuning", "--method", "ept-star"]
        assert main(["demo", *words, "--seeds", "2", "--steps", str(STEPS), "--output", str(folder), "--quiet"]) == 0
    return folder, printed.getvalue()


class TestRefusals:
    """Before any work: nothing is loaded, nothing written."""

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"tasks": ["lab/colour"]}, r"unknown task 'lab/colour'. Did you mean 'lab/color'"),
            ({"methods": ["scald"]}, r"unknown method 'scald'. Did you mean 'scaled'"),
            ({"tasks": ["lab/color", "lab/x"]}, "unknown task"),
        ],
    )
    def test_an_unknown_name_names_the_nearest(self, given, message, tmp_path):
        with pytest.raises(UnknownName, match=message):
            Demo(output=tmp_path / "out", **given)

    @pytest.mark.parametrize("given", [{"tasks": []}, {"methods": []}, {"seeds": 0}, {"steps": 0}])
    def test_nothing_to_show_is_refused(self, given, tmp_path):
        with pytest.raises(BadInput):
            Demo(output=tmp_path / "out", **given)

    def test_a_lab_backbone_is_not_asked_what_has_other_words(self, tmp_path, capsys):
        words = ["demo", "--task", "glue/sst2", "--output", str(tmp_path / "out")]
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "'lab-t5' knows the words of the lab only, not those of 'glue/sst2'; give --model" in line
        assert not (tmp_path / "out").exists()

    def test_a_folder_in_use_is_left_alone(self, tmp_path):
        (tmp_path / "mine").write_text("kept")
        with pytest.raises(RunExists):
            Demo(output=tmp_path).show()
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_rows_that_are_not_there_are_missed_before_training(self, weights, tmp_path, monkeypatch):
        monkeypatch.setattr(lab_demo, "train", lambda *_, **__: pytest.fail("trained"))
        plan = Demo(
            tasks=["lab/color", "glue/sst2"], model=str(weights / "lab-t5"), output=tmp_path / "o", data_root=tmp_path
        )
        with pytest.raises(BadInput, match="sst2"):
            plan.show()
        assert not (tmp_path / "o").exists()


class TestPlan:
    def test_every_method_has_the_same_seeds(self, tmp_path):
        plan = Demo(output=tmp_path, methods=["scaled", "polar"], seeds=2, tasks=["lab/color"])
        assert [(prompt.method, prompt.seeds.order) for prompt in plan.prompts] == [
            ("scaled", 0), ("scaled", 1), ("polar", 0), ("polar", 1),
        ]  # fmt: skip
        assert [one.name for one in plan.declared] == ["lab/color"]

    def test_its_default_is_twelve_prompts_of_150_steps_on_a_pair_task_and_an_answer_of_two_words(self, tmp_path):
        plan = Demo(output=tmp_path)
        assert (len(plan.prompts), plan.settings.steps, plan.settings.eval_every) == (12, 150, 50)
        pair, words = plan.declared
        assert (pair.source.world, len(pair.labels)) == ("entailment", 2)
        assert (words.source.world, words.answer) == ("several", "text")

    def test_evaluation_is_never_rarer_than_the_steps(self, tmp_path):
        assert [Demo(output=tmp_path, steps=n).settings.eval_every for n in (1, 2, 3, 4, 600)] == [1, 1, 1, 2, 200]


class TestInstructions:
    def test_they_are_words_that_pretraining_knows(self):
        known = set(build_tokenizer("encoder-decoder").get_vocab())
        for one in LAB:
            assert set((instruction(one) or "").split()) <= known

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("color", "what color :"),
            ("opinion-relabelled", "say sun if good else moon :"),
            ("topic-relabelled", None),
            ("warm", "is it red or orange or yellow :"),
            ("entailment", "does it follow :"),
            ("same-color", "same color :"),
            ("purchase", "what number and thing :"),
        ],
    )
    def test_each_family_is_asked_in_its_words(self, name, words):
        assert instruction(TASKS[f"lab/{name}"]) == words

    def test_every_instruction_is_one_that_pretraining_draws(self):
        from random import Random

        from softprompt.world import question

        tasks = ("opinion", "color", "day", "entailment", "same-color", "same-topic")
        draw, missing = Random(0), {instruction(TASKS[f"lab/{name}"]) for name in tasks}
        for _ in range(3000):
            missing -= {question(draw, kind).instruction for kind in KINDS}
            if not missing:
                break
        assert missing == set()

    def test_other_tasks_have_none(self):
        assert instruction(TASKS["glue/sst2"]) is None
        assert instructed(TASKS["glue/sst2"]) is None

    def test_it_stands_before_the_row(self):
        asked = instructed(TASKS["lab/color"])
        assert asked is not None
        assert asked.render({"passage": "the hat was red ."}).text == "what color : the hat was red ."


class TestChoices:
    def test_the_best_prompt_is_best_on_validation_whatever_the_test_rows_say(self):
        def result(prompt, validation, test):
            metrics = {"validation": {"score": validation}, "test": {"score": test}} if validation else {}
            return Result(
                run="", prompt=prompt, task="", method="scaled", seed=0, metrics=metrics, best_step=1, trainable=1,
                head=0,
                stored=1, seconds=0.0, status="",
            )  # fmt: skip

        results = [result("dropped", None, None), result("a", 0.5, 0.9), result("b", 0.6, 0.1), result("c", 0.6, 0.9)]
        assert best_of(results).prompt == "b"

    @pytest.mark.parametrize(
        ("before", "after", "place"),
        [
            ([0, 1, 1, 0], [1, 1, 0, 1], 2),
            ([0, 1, 0, 0], [1, 1, 0, 0], 1),
            ([0, 0, 0, 0], [1, 0, 1, 0], 0),
            (None, [1, 1, 0, 0], 1),
        ],
    )
    def test_the_row_shown_was_wrong_before_and_is_right_after(self, before, after, place):
        rows = Examples(Ragged.of([[5]] * 4), None, [0, 1, 0, 1])
        earlier = None if before is None else Answers(before, [""] * 4)
        assert turned(rows, earlier, Answers(after, [""] * 4)) == place

    def test_no_prompt_is_the_frozen_model_alone(self):
        backbone = load_backbone("lab-t5")
        text = "the hat was red ."
        ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
        one = with_difficulty(task("lab/color"), train=8, validation=8, test=8)
        found = no_prompt(backbone).predict([text], model=backbone, task=one)[0]
        words = [backbone.tokenizer(label)["input_ids"] for label in one.labels]
        logits = [
            backbone.model(input_ids=ids, labels=torch.tensor([word]))
            .logits.log_softmax(-1)[0, range(len(word)), word]
            .sum()
            for word in words
        ]
        expected = torch.stack(logits).softmax(0)
        torch.testing.assert_close(torch.tensor(list(found["scores"].values())), expected, rtol=0, atol=1e-5)


class TestWhatIsWritten:
    def test_scores_are_those_of_the_stored_prompts_and_of_the_frozen_model(self, shown):
        folder, _ = shown
        opinion, color = json.loads((folder / "results.json").read_text())
        assert (opinion["task"], color["task"]) == ("lab/opinion", "lab/color")
        for one in (opinion, color):
            backbone = load_backbone("lab-t5")
            for result in one["results"]:
                stored = SoftPrompt.load(folder / one["task"].split("/")[1] / result["prompt"] / "prompt")
                score = evaluate(stored, model=backbone).metrics["score"]
                assert score == pytest.approx(result["metrics"]["test"]["score"])
            plain = read_plan(folder / one["task"].split("/")[1]).task
            bare = no_prompt(backbone)
            assert evaluate(bare, task=plain, model=backbone).metrics["score"] == one["unprompted"]
            asked = instructed(plain)
            assert evaluate(bare, task=asked, model=backbone).metrics["score"] == one["instructed"]
            assert one["majority"] == one["results"][0]["majority"]
            assert one["rows"] == 24

    def test_norm_curves_begin_where_the_vectors_did(self, shown):
        folder, _ = shown
        for name in ("opinion", "color"):
            norms = json.loads((folder / "figures" / f"{name}-norms.json").read_text())
            cosines = json.loads((folder / "figures" / f"{name}-cosines.json").read_text())
            assert norms["band"] == [1.0, 10.0]
            assert {method: [c["seed"] for c in found] for method, found in norms["curves"].items()} == {
                "prompt-tuning": [0, 1], "ept-star": [0, 1],
            }  # fmt: skip
            curve = norms["curves"]["prompt-tuning"][0]
            assert curve["steps"] == [*range(1, STEPS + 1)]
            assert curve["raw"][0] / norms["token_norm"] == pytest.approx(curve["token_norms"][0])
            # A prompt of one vector has no pair.
            assert set(cosines) == {"prompt-tuning"}
            pair = cosines["prompt-tuning"]
            stored = SoftPrompt.load(folder / name / "prompt-tuning-seed0" / "prompt").vectors.double().numpy()
            unit = stored / ((stored**2).sum(1, keepdims=True) ** 0.5)
            assert pair["trained"]["cosines"] == pytest.approx(unit @ unit.T, abs=1e-9)
            assert len(pair["step 0"]["cosines"]) == 10

    def test_the_matrix_of_step_0_is_that_of_the_initial_vectors(self, shown):
        # Uniform in [-0.5, 0.5], of the seed alone: the norm recorded in the first pass is that of the same vectors.
        from softprompt.analysis import cosines
        from softprompt.prompts.initializers import uniform
        from softprompt.prompts.trainable import TrainablePrompt
        from softprompt.settings import PromptSettings, Seeds

        folder, _ = shown
        table = load_backbone("lab-t5").word_vectors
        start = TrainablePrompt.build(
            PromptSettings(method="prompt-tuning", seeds=Seeds.all(0)), uniform(), table, None
        ).folded()
        written = json.loads((folder / "figures" / "color-cosines.json").read_text())["prompt-tuning"]["step 0"]
        assert written["cosines"] == pytest.approx(cosines(start).numpy(), abs=1e-9)
        curve = json.loads((folder / "figures" / "color-norms.json").read_text())["curves"]["prompt-tuning"][0]
        assert curve["raw"][0] == pytest.approx(start.double().norm(dim=1).mean().item(), rel=1e-6)

    def test_the_first_tasks_best_prompt_is_exported(self, shown):
        folder, _ = shown
        best = json.loads((folder / "results.json").read_text())[0]["best"]
        from safetensors.torch import load_file

        rows = load_file(folder / "peft" / "adapter_model.safetensors")["prompt_embeddings"]
        assert torch.equal(rows, SoftPrompt.load(folder / "opinion" / best / "prompt").expanded())

    def test_figures_are_drawn_where_they_can_be(self, shown):
        pytest.importorskip("matplotlib", reason="figures need the extra `plots`")
        drawn = {path.name for path in (shown[0] / "figures").glob("*.png")}
        assert drawn == {f"{task}-{what}.png" for task in ("opinion", "color") for what in ("norms", "cosines")}


class TestWhatIsPrinted:
    def test_tables_have_every_method_and_the_references(self, shown):
        folder, text = shown
        for line in ("method", "prompt-tuning", "ept-star", "always the same class", "frozen model, text alone"):
            assert sum(one.strip().startswith(line) for one in text.splitlines()) == 2, line
        assert "frozen model, 'what color :'" in text
        assert "a difference smaller than the deviations says nothing" in text
        assert text.count("scores are accuracy; 1.000 is all rows right") == 2
        assert "because the frozen model was pretrained on exactly these words" in text
        assert re.search(
            r"The best mean is 0\.\d{3} \((prompt-tuning|ept-star)\), from 0\.\d{3} for the text alone", text
        )
        assert text.splitlines()[-1].strip().startswith("/somewhere/bin/softprompt predict ")
        row = next(one.split() for one in text.splitlines() if one.strip().startswith("prompt-tuning"))
        results = json.loads((folder / "results.json").read_text())[0]["results"][:2]
        scores = [result["metrics"]["test"]["score"] for result in results]
        assert row[1] == f"{sum(scores) / 2:.3f}"
        assert row[3] == f"{min(scores):.3f}"
        # Ten vectors of 16 numbers, four bytes each.
        assert row[-2:] == ["160", "640"]

    def test_where_nothing_learns_everything_is_stuck(self, shown):
        # A random backbone: no prompt comes near an instruction that would answer all rows.
        folder, _ = shown
        results = read_results(folder / "color")
        for reference, share in ((1.0, 1.0), (None, None)):
            found = SimpleNamespace(run=SimpleNamespace(results=results), instructed=reference)
            rows = _demo.table_rows(found)  # type: ignore[arg-type]  (a stand-in)
            assert [row["method"] for row in rows] == ["prompt-tuning", "ept-star"]
            if share is not None:
                assert [row["stuck"] for row in rows] == [share, share]
            else:
                assert [row["stuck"] for row in rows] == [row["stuck"] for row in summary(results)]

    def test_one_seed_is_said_to_be_one(self):
        assert "of 3 prompts a method: a difference smaller than the deviations says nothing" in _demo.caveat(3)
        assert "of one prompt a method: a difference between methods may be chance" in _demo.caveat(1)

    def test_every_command_it_advises_works_as_printed(self, shown, tmp_path, monkeypatch, capsys):
        _, text = shown
        monkeypatch.chdir(tmp_path)
        commands = [shlex.split(line) for line in text.partition("try next\n")[2].splitlines() if line.strip()]
        assert 4 <= len(commands) <= 6
        for program, *words in commands:
            assert program in ("softprompt", "/somewhere/bin/softprompt")
            short = ["--seeds", "1", "--steps", "1"] if words[0] == "demo" else []
            short = ["--task-option", "train=16", "--task-option", "test=8"] if words[0] == "train" else short
            assert main([*words, *short]) == 0, words
        capsys.readouterr()

    def test_where_every_task_reads_several_columns_the_command_answers_the_row_that_is_written(self, shown):
        folder, _ = shown
        task, run = TASKS["lab/entailment"], SimpleNamespace(folder=folder / "x")
        found = SimpleNamespace(task=task, run=run, best=SimpleNamespace(prompt="a"), seen=None)
        command = _demo.predict_command(SimpleNamespace(output=folder), [found])  # type: ignore[arg-type]  (a stand-in)
        assert shlex.split(command)[1:] == ["predict", f"{folder}/x/a/prompt", "--file", f"{folder}/row.jsonl"]
        assert set(json.loads((folder / "row.jsonl").read_text())) == set(TASKS["lab/opinion"].columns)

    def test_its_tables_fit_into_80_columns_with_every_score_whole(self, shown, monkeypatch, capsys):
        folder, _ = shown
        monkeypatch.setattr(_demo, "width_of", lambda stream: 80)
        results = read_results(folder / "color")
        found = SimpleNamespace(run=SimpleNamespace(results=results), instructed=1.0)
        _demo._print(_demo.table_rows(found), [{"method": "frozen model, 'x'", "mean": 1.0}])  # type: ignore[arg-type]  (a stand-in)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("…" in line or "..." in line for line in lines)
        assert (
            len([line for line in lines if re.search(r"^ept-star +[01]\.\d{3} +[01]\.\d{3} +[01]\.\d{3}", line)]) == 1
        )

    def test_ctrl_c_is_one_line_that_says_what_is_left(self, tmp_path, monkeypatch, capsys):
        def stopped(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(lab_demo, "train", stopped)
        assert main(["demo", "--output", str(tmp_path / "out"), "--quiet"]) == 130
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == f"softprompt: the demo was stopped; what was finished is in {tmp_path / 'out'}"
        with pytest.raises(Interrupted):
            Demo(output=tmp_path / "out").show()

    def test_of_many_labels_the_likeliest_are_shown(self):
        scores = {"red": 0.1, "blue": 0.6, "green": 0.2, "black": 0.05, "white": 0.05}
        assert _demo.answered({"label": "blue", "scores": scores}) == "blue 0.600  green 0.200  red 0.100"
        assert _demo.answered({"output": "two hats"}) == "'two hats'"
