"""`softprompt landscape`: what it writes, whose numbers they are, and what it refuses."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from softprompt.analysis.prompt_landscape import landscape_of
from softprompt.backbones import load_backbone
from softprompt.cli import main
from softprompt.inference.evaluate import evaluate
from softprompt.inference.rows import examples_for
from softprompt.prompts.prompt import SoftPrompt
from softprompt.settings import LandscapeSettings, PromptSettings, Seeds, TrainSettings
from softprompt.training import train

from kit import review_rows, review_task


@pytest.fixture(scope="module")
def trained(tiny_t5, tiny_bert, save_tiny, tmp_path_factory):
    """Runs of a T5 with two prompts, of another seed of it, and of an encoder's head alone."""
    root = tmp_path_factory.mktemp("trained")
    task = review_task(root / "data")
    t5, bert = (str(save_tiny(root / "t5", *tiny_t5())), str(save_tiny(root / "bert", *tiny_bert(head=False))))
    settings = TrainSettings(steps=2, eval_every=2, batch_size=4)

    def run(name, model, *prompts):
        train(task, model, prompts=prompts, settings=settings, output=root / name, progress=False)

    run("first", t5, PromptSettings(method="prompt-tuning"), PromptSettings(method="ept-star"))
    run("second", t5, PromptSettings(method="prompt-tuning", seeds=Seeds.all(1)))
    run("head", bert, PromptSettings(method="linear-probe"))
    return root


@pytest.fixture
def call(tmp_path, capsys):
    """`softprompt landscape ...` into an output folder: exit code, standard output, standard error."""

    def run(*words, output=tmp_path / "out"):
        small = [] if "--grid" in words else ["--grid", "3"]
        more = [] if "--rows" in words else ["--rows", "4"]
        code = main([*map(str, ("landscape", *words, *small, *more, "--output", output))])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


REFUSED = {
    "radius": (["first", "--radius", "0"], "--radius must be positive"),
    "even": (["first", "--grid", "4"], "--grid must be odd"),
    "small": (["first", "--grid", "1"], "--grid must be odd"),
    "space": (["first", "--space", "prompts"], "'prompts' is not one of 'input', 'prompt'"),
    "prompt": (["first", "--prompt", "ept-sta"], "unknown prompt of "),
    "no run": (["first/ept-star-seed0", "--prompt", "ept-star-seed0"], "is no run; drop --prompt"),
    "nothing": (["third"], "is neither a stored prompt"),
    "no prompt": (["head", "--space", "prompt"], "head without a prompt"),
    "alone": (["--compare", "second"], "--compare needs at least two prompts"),
    "split": (["second", "--split", "tset"], "unknown split 'tset'"),
}


class TestTheCommand:
    def test_it_writes_each_prompts_figures_and_numbers(self, trained, call, tmp_path):
        code, out, err = call(trained / "first", "--json")
        assert code == 0, err
        names = [f"first-{prompt}-{figure}.png" for prompt in ("ept-star-seed0", "prompt-tuning-seed0")
                 for figure in ("contour", "surface")]  # fmt: skip
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(["landscape.json", *names])
        written = json.loads((tmp_path / "out" / "landscape.json").read_text())
        assert written["settings"] == dataclasses.asdict(LandscapeSettings(grid=3, rows=4))
        assert written["coordinates"] == [-1, 0, 1]
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["prompt"] for line in lines] == ["first/prompt-tuning-seed0", "first/ept-star-seed0"]
        for line, whole in zip(lines, written["prompts"], strict=True):
            assert line == {name: whole[name] for name in line}

    def test_its_numbers_are_those_of_the_library_on_rows_of_the_test_split(self, trained, call, tmp_path):
        assert call(trained / "second", "--rows", "5", "--seed", "3")[0] == 0
        (found,) = json.loads((tmp_path / "out" / "landscape.json").read_text())["prompts"]
        numbers = found["examples"]["row"]
        assert len(set(numbers)) == 5
        assert set(numbers) <= set(range(16))
        prompt = SoftPrompt.load(trained / "second")
        backbone = load_backbone(str(trained / "t5"))
        task = review_task(trained.parent / f"{tmp_path.name}-rows")
        rows = [{"text": text, "label": label} for text, label in review_rows(16, seed=2)]
        examples = examples_for(backbone, task, [rows[number] for number in numbers], prompt.length)
        settings = LandscapeSettings(grid=3, rows=5, seed=3)
        expected = landscape_of(backbone, prompt, examples, settings, names=numbers)
        np.testing.assert_allclose(found["surface"], expected.mean_surface.numpy(), rtol=1e-5)
        for name, one in expected.numbers().items():
            assert found["numbers"][name] == pytest.approx(dataclasses.asdict(one), rel=1e-4, abs=1e-6), name

    def test_it_says_how_well_the_rows_are_answered_and_warns_at_chance(self, trained, call, tmp_path):
        code, out, _ = call(trained / "second", "--rows", "16")
        assert code == 0
        (found,) = json.loads((tmp_path / "out" / "landscape.json").read_text())["prompts"]
        assert found["metrics"] == evaluate(SoftPrompt.load(trained / "second")).metrics
        assert found["majority"] == 0.5
        at_chance = found["metrics"]["accuracy"] <= 0.5
        assert ("may be flat because it ignores its input" in out) == at_chance == (found["warning"] is not None)

    def test_compare_draws_runs_side_by_side_on_the_same_rows(self, trained, call, tmp_path):
        code, out, err = call("--compare", trained / "first", trained / "second", "--format", "svg")
        assert code == 0, err
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"landscape.json", "contour.svg", "surface.svg"}
        found = json.loads((tmp_path / "out" / "landscape.json").read_text())["prompts"]
        assert len({tuple(one["examples"]["row"]) for one in found}) == 1
        labels = ["first/prompt-tuning-seed0", "first/ept-star-seed0", "second/prompt-tuning-seed1"]
        assert [one["prompt"] for one in found] == labels
        assert [line.split()[0] for line in out.splitlines()[1:4]] == labels

    def test_prompts_of_different_models_are_compared_where_their_task_is_one(self, trained, call, tmp_path):
        assert call("--compare", trained / "second", trained / "head")[0] == 0
        t5, bert = json.loads((tmp_path / "out" / "landscape.json").read_text())["prompts"]
        assert t5["examples"]["row"] == bert["examples"]["row"]
        assert t5["units"] != bert["units"]
        assert bert["prompt"] == "head/linear-probe-seed0"

    def test_the_prompt_plane_of_one_prompt_and_of_its_folder_are_the_same(self, trained, call, tmp_path):
        prompt = "ept-star-seed0"
        outs = [tmp_path / name for name in "abc"]
        assert call(trained / "first", "--prompt", prompt, "--space", "prompt", output=outs[0])[0] == 0
        assert call(trained / "first" / prompt, "--space", "prompt", output=outs[1])[0] == 0
        assert call(trained / "first" / prompt / "prompt", "--space", "prompt", output=outs[2])[0] == 0
        assert len({(out / "landscape.json").read_bytes() for out in outs}) == 1
        assert {len(list(out.iterdir())) for out in outs} == {3}

    def test_without_the_plotting_library_the_numbers_are_written(self, trained, call, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "softprompt.analysis.plots", None)
        monkeypatch.delattr("softprompt.analysis.plots", raising=False)
        code, _, err = call(trained / "second")
        assert code == 0
        assert "no figures are drawn" in err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["landscape.json"]

    @pytest.mark.parametrize("case", REFUSED)
    def test_what_cannot_be_drawn_is_refused_in_one_line(self, trained, call, tmp_path, case, monkeypatch):
        monkeypatch.chdir(trained)
        words, message = REFUSED[case]
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]
        assert not any(tmp_path.iterdir())

    def test_a_run_without_its_backbone_is_refused_in_one_line(self, trained, call, tmp_path):
        aside = trained / "elsewhere"
        (trained / "t5").rename(aside)
        try:
            code, out, err = call(trained / "second")
        finally:
            aside.rename(trained / "t5")
        assert (code, out) == (2, "")
        assert str(trained / "t5") in err.splitlines()[-1]
        assert not any(tmp_path.iterdir())
        assert call(trained / "second", "--model", trained / "t5")[0] == 0

    def test_an_unfinished_run_is_refused_but_for_what_it_has(self, trained, call, tmp_path):
        shutil.copytree(trained / "first", tmp_path / "run" / "first")
        shutil.rmtree(tmp_path / "run" / "first" / "ept-star-seed0" / "prompt")
        (tmp_path / "run" / "first" / "ept-star-seed0" / "result.json").unlink()
        code, _, err = call(tmp_path / "run" / "first")
        assert code == 2
        assert "has not stored prompt 'ept-star-seed0'; finish it" in err.splitlines()[-1]
        assert not (tmp_path / "out").exists()
        assert call(tmp_path / "run" / "first", "--prompt", "prompt-tuning-seed0")[0] == 0

    def test_an_output_that_exists_is_refused_and_stays(self, trained, call, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()
        code, _, err = call(trained / "second")
        assert code == 2
        assert "exists already" in err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]

    def test_a_link_that_leads_nowhere_is_refused_before_anything_is_computed(self, trained, call, tmp_path):
        (tmp_path / "out").symlink_to(tmp_path / "nowhere")
        code, _, err = call(trained / "second")
        assert code == 2
        # Nothing is said of what would be computed.
        assert err.startswith(f"softprompt: '{tmp_path / 'out'}' exists already; ")
        assert err.count("\n") == 1

    def test_prompts_of_different_tasks_are_not_compared(self, trained, call, tmp_path, save_tiny, tiny_t5):
        task = dataclasses.replace(review_task(tmp_path / "data"), name="others")
        settings = TrainSettings(steps=1, eval_every=1, batch_size=2)
        run = tmp_path / "run"
        train(task, str(trained / "t5"), prompts=[PromptSettings()], settings=settings, output=run, progress=False)
        code, _, err = call("--compare", trained / "second", run)
        assert code == 2
        assert "--compare needs one task: 'second/prompt-tuning-seed1' is of 'reviews'" in err.splitlines()[-1]
