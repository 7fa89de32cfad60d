"""A run and a search go on with what they began from, and with nothing else."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from softprompt.backbones import from_model, load_backbone, weights_digest
from softprompt.cli import main
from softprompt.errors import BadInput, ModelMismatch
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.tasks import custom_task
from softprompt.training import resume, train
from softprompt.training._loop import Loop
from softprompt.tuning import tune

from kit import review_rows, review_task, rewrite, same_files

PROMPT = PromptSettings(options={"prompt_length": 2})
SETTINGS = TrainSettings(steps=4, eval_every=2, batch_size=4, eval_rows=4)
LATE = dataclasses.replace(SETTINGS, eval_every=4)
TIMES = ("timing.jsonl", "state.json", "manifest.json")


class Killed(BaseException):
    """What a SIGKILL looks like from within: nobody catches it."""


@pytest.fixture
def task(tmp_path):
    return review_task(tmp_path / "rows")


@pytest.fixture
def model(tiny_t5, save_tiny, tmp_path):
    return save_tiny(tmp_path / "model", *tiny_t5())


@pytest.fixture
def killed(monkeypatch, task, model, tmp_path):
    """Starts a run and kills it before its fourth step."""

    def go(settings=SETTINGS, of=task, **prompt):
        optimize = Loop._optimize

        def kill(loop):
            if loop.step == 4:
                raise Killed
            return optimize(loop)

        started = dataclasses.replace(PROMPT, **prompt)
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_optimize", kill)
            with pytest.raises(Killed):
                train(of, model, prompts=started, settings=settings, output=tmp_path / "run")
        return tmp_path / "run"

    return go


def train_a_layer_on(folder: Path) -> None:
    """Change the weights of one layer of a stored model a little, as training does; the word embeddings stay."""
    weights = load_file(folder / "model.safetensors")
    weights["encoder.block.0.layer.0.SelfAttention.q.weight"] *= 1.01
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


class TestTheModel:
    def test_whose_layers_were_trained_on_is_refused_from_its_folder_and_loaded(self, killed, model):
        run = killed()
        before = load_backbone(str(model)).identity()
        train_a_layer_on(model)
        assert load_backbone(str(model)).identity() == before
        for given in (None, load_backbone(str(model))):
            with pytest.raises(ModelMismatch, match=r"the weights of .* are not those that .*run was started with"):
                resume(run, model=given)

    def test_is_not_asked_for_by_a_run_of_an_earlier_version(self, killed, model):
        run = killed()
        rewrite(run / "run.json", lambda values: values.pop("inputs"))
        train_a_layer_on(model)
        assert resume(run).results[0].status == "finished"

    def test_at_another_place_is_refused_for_such_a_run(self, killed, model):
        run = killed()
        rewrite(run / "run.json", lambda values: values.pop("inputs"))
        with pytest.raises(BadInput, match=r"does not record the weights of its model.*put the model back"):
            resume(run, model=model)

    def test_that_has_moved_is_given_and_has_to_be_the_same(self, killed, task, model, tmp_path, tiny_t5, save_tiny):
        run = killed()
        train(task, str(model), prompts=PROMPT, settings=SETTINGS, output=tmp_path / "whole")
        moved = model.rename(tmp_path / "moved")
        with pytest.raises(BadInput, match="there is no model folder"):
            resume(run)
        other = save_tiny(tmp_path / "other", *tiny_t5(seed=9))
        with pytest.raises(ModelMismatch, match="the weights of"):
            resume(run, model=other)
        assert main(["train", "--resume", str(run), "--model", str(moved), "--quiet"]) == 0
        assert same_files(tmp_path / "whole", run, ignore=(*TIMES, "prompt.json", "result.json"))

    @pytest.mark.parametrize("scale", [1.0, 4.0])
    def test_has_the_same_digest_whatever_its_precision_order_and_names(self, scale, tiny_t5):
        digests = {weights_digest(from_model(*tiny_t5(), embedding_scale=scale).model) for _ in range(2)}
        assert len(digests) == 1
        assert weights_digest(torch.nn.Sequential(torch.nn.Linear(2, 2))) not in digests


class TestTheRows:
    def test_of_files_of_their_own_are_compared_before_the_first_checkpoint(self, killed, task):
        run = killed(LATE)
        assert not (run / "checkpoints").exists()
        path = Path(*task.source.paths("train"))
        content = path.read_text()
        path.write_text(content.replace("film", "play"))
        with pytest.raises(BadInput, match=r"the rows are not those that .*run was started with; restore them"):
            resume(run)
        path.write_text(content)
        assert resume(run).results[0].status == "finished"

    def test_that_other_splits_are_drawn_from_are_refused_with_what_a_run_can_do(self, killed, task, model, tmp_path):
        path = Path(*task.source.paths("train"))
        drawn = custom_task(path, text_columns=("text",), label_column="label")
        run = killed(LATE, of=drawn)
        path.write_text(path.read_text().replace("film", "play"))
        with pytest.raises(
            BadInput, match=r"train\.csv holds other rows than .*; restore the file, or start a new run"
        ):
            resume(run)


def test_initial_vectors_of_another_prompt_are_refused(killed, task, model, tmp_path):
    def source(name, lr):
        prompt = dataclasses.replace(PROMPT, lr=lr)
        run = train(task, str(model), prompts=prompt, settings=SETTINGS, output=tmp_path / name)
        return run.folder / "prompt-tuning-seed0"

    first, second = source("first", 0.1), source("second", 0.2)
    run = killed(LATE, init=f"prompt:{first}")
    first.rename(tmp_path / "kept")
    second.rename(first)
    with pytest.raises(BadInput, match=r"prompt-tuning-seed0 is not what .*run was started with; restore it"):
        resume(run)


def test_a_search_does_not_go_on_with_a_model_whose_layers_were_trained_on(model, tmp_path, monkeypatch):
    rows = [{"text": text, "label": label} for text, label in review_rows(64, 0)]

    def search():
        return tune(
            rows, str(model), text_column="text", label_column="label", trials=1, seeds=1, steps=4,
            method=["prompt-tuning"], output=tmp_path / "search",
        )  # fmt: skip

    def kill(loop):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_optimize", kill)
        with pytest.raises(Killed):
            search()
    train_a_layer_on(model)
    with pytest.raises(ModelMismatch, match=r"the weights of .* are not those that the search in .* was begun with"):
        search()


def test_weights_that_are_on_no_device_have_no_digest(tiny_t5):
    model = from_model(*tiny_t5()).model
    assert weights_digest(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.to("meta"), requires_grad=False)
    assert weights_digest(model) == ""
