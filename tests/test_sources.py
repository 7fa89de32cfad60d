"""Methods that begin from prompts of other tasks: SPoT and ATTEMPT; and regularisers of what trains no prompt."""

import dataclasses
import json
import logging
import os
import signal
from typing import Any

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.baselines import Shared
from softprompt.cli import main
from softprompt.errors import BadInput, ModelMismatch
from softprompt.inference.predict import predict
from softprompt.interop.stored import load
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import SoftPrompt
from softprompt.prompts.tuned import TunedWeights
from softprompt.store import save_prompt
from softprompt.training import Interrupted, resume, train
from softprompt.training import _folder as folder_module
from softprompt.training._loop import Loop
from softprompt.training._records import read_record
from softprompt.training.objectives import BothLoss, LabelLoss, TokenLoss
from softprompt.training.transfer.mpt_steps import SourceTraining, distillation
from softprompt.training.transfer.spot import likeness, probe_steps
from torch.nn import functional

from kit import review_task, same_files

SETTINGS: dict[str, Any] = {"steps": 6, "eval_every": 6, "batch_size": 8, "warmup": 2}
# A run of six steps tries the new task for one.
PROBE: dict[str, Any] = {"steps": 1, "eval_every": 1, "batch_size": 8, "warmup": 0}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def backbone(tiny_t5):
    return from_model(*tiny_t5(), name="t5", engine="reference")


@pytest.fixture(scope="module")
def source(backbone, task, tmp_path_factory):
    """A prompt that was trained on the task as the probe will be."""
    output = tmp_path_factory.mktemp("source") / "run"
    run = train(task, backbone, method="prompt-tuning", lr=0.1, output=output, **PROBE)
    return run.prompt()


def kept(prompt, folder):
    """The folder of a stored prompt."""
    return str(save_prompt(prompt, folder))


class TestSpot:
    def test_it_begins_at_its_only_source_as_prompt_tuning_would(self, backbone, task, source, tmp_path):
        path = kept(source, tmp_path / "a")
        train(task, backbone, method="spot", sources=path, output=tmp_path / "spot", **SETTINGS)
        train(task, backbone, init=f"prompt:{path}", output=tmp_path / "plain", **SETTINGS)
        spot, plain = (
            tmp_path / run / name / "metrics.jsonl"
            for run, name in (("spot", "spot-seed0"), ("plain", "prompt-tuning-seed0"))
        )
        assert spot.read_bytes() == plain.read_bytes()

    def test_of_several_it_takes_the_one_whose_mean_vector_has_the_largest_cosine(
        self, backbone, task, source, tmp_path, caplog
    ):
        caplog.set_level(logging.INFO, "softprompt")
        other = dataclasses.replace(source, vectors=-source.vectors)
        paths = [kept(other, tmp_path / "other"), kept(source, tmp_path / "same")]
        run = train(task, backbone, method="spot", sources=paths, lr=0.1, output=tmp_path / "run", **SETTINGS)
        (prompt,) = json.loads((run.folder / "run.json").read_text())["prompts"]
        assert prompt["init"] == f"prompt:{paths[1]}"
        assert run.prompt().provenance.training["init"] == prompt["init"]
        (line,) = [message for message in caplog.messages if "cosines" in message]
        # The probe has the seed and the steps of the source itself.
        assert f"{paths[0]} -1.000, {paths[1]} 1.000" in line
        assert not list(tmp_path.glob("**/*probe*"))

    def test_a_run_that_was_stopped_goes_on_without_looking_for_its_source_again(
        self, backbone, task, source, tmp_path, monkeypatch
    ):
        paths = [
            kept(source, tmp_path / "a"),
            kept(dataclasses.replace(source, vectors=-source.vectors), tmp_path / "b"),
        ]
        whole = train(task, backbone, method="spot", sources=paths, output=tmp_path / "whole", **SETTINGS)
        (whole.folder / "spot-seed0" / "result.json").unlink()
        monkeypatch.setattr("softprompt.training._train.with_sources", None)
        assert resume(whole.folder, model=backbone).results[0].metrics == whole.results[0].metrics

    def test_likeness_is_the_cosine_of_the_mean_vectors(self):
        a, b = torch.randn(3, 8), torch.randn(5, 8)
        x, y = a.mean(0), b.mean(0)
        assert likeness(a, b) == pytest.approx(float(x @ y / (x.norm() * y.norm())), rel=1e-5)
        assert [probe_steps(steps) for steps in (1, 20, 5000)] == [1, 4, 200]


class TestAttempt:
    def test_its_stored_form_keeps_sources_and_attention_and_needs_no_source_folder(
        self, backbone, task, source, tmp_path
    ):
        folders = [tmp_path / "a", tmp_path / "b"]
        for factor, folder in enumerate(folders, 1):
            kept(dataclasses.replace(source, vectors=factor * source.vectors), folder)
        run = train(
            task, backbone, method="attempt", sources=list(map(str, folders)), output=tmp_path / "run", **SETTINGS
        )
        for folder in folders:
            folder.rename(folder.with_suffix(".away"))
        tuned = load(run.folder)
        assert isinstance(tuned, TunedWeights)
        torch.testing.assert_close(tuned.weights["sources"], torch.stack([source.vectors, 2 * source.vectors]))
        assert set(tuned.weights) == {"sources", "target", "down.weight", "up.weight", "norm.weight", "norm.bias"}
        assert predict(tuned, ["good film"], model=backbone)
        assert run.results[0].norm is None
        assert main(["show", str(run.folder)]) == 0

    def test_a_t5_base_with_100_vectors_trains_the_232k_of_the_papers_table_4(self):
        from softprompt.baselines.rows import PromptAttention

        attention = PromptAttention(torch.zeros(6, 100, 768), torch.zeros(100, 768), 100, 1.0)
        assert sum(values.numel() for values in attention.parameters()) == 231_936

    def test_a_row_has_the_same_prompt_whatever_pads_stand_beside_it(self):
        from softprompt.baselines.rows import PromptAttention

        torch.manual_seed(0)
        attention = PromptAttention(torch.randn(2, 3, 8), torch.randn(3, 8), 4, 1.0)
        text, mask = torch.randn(1, 5, 8), torch.tensor([[True] * 3 + [False] * 2])
        zeros = torch.zeros(1, 3, 8)
        alone, padded = attention(zeros, text[:, :3], mask[:, :3])[0], attention(zeros, text, mask)[0]
        torch.testing.assert_close(alone, padded)


def test_a_dept_of_40_vectors_and_rank_45_trains_as_many_numbers_as_100_vectors_of_prompt_tuning():
    from softprompt.baselines.rows import DecomposedPrompt

    assert sum(v.numel() for v in DecomposedPrompt(torch.zeros(40, 768), 256, 45).parameters()) == 100 * 768


@pytest.fixture(scope="module")
def teachers(backbone, task, tmp_path_factory):
    """Prompts that were trained on two tasks, as the folders of their runs."""
    folders, tmp_path = [], tmp_path_factory.mktemp("teachers")
    for number, name in enumerate(("reviews", "other reviews")):
        named, output = dataclasses.replace(task, name=name), tmp_path / f"teacher{number}"
        train(named, backbone, lr=0.1, seeds=number, output=output, **PROBE)
        folders.append(str(output))
    return folders


class TestMpt:
    def test_it_learns_from_several_tasks_and_begins_at_their_mean_and_is_stored(
        self, backbone, task, teachers, tmp_path, caplog
    ):
        caplog.set_level(logging.INFO, "softprompt")
        run = train(task, backbone, method="mpt", sources=teachers, output=tmp_path / "run", **SETTINGS)
        assert any("mpt: 6 steps over reviews, other reviews" in message for message in caplog.messages)
        tuned = load(run.folder)
        assert isinstance(tuned, TunedWeights)
        assert {name: tuple(values.shape) for name, values in tuned.weights.items()} == {
            "prompt": (10, 16), "columns": (1, 10, 1), "rows": (1, 1, 16),
        }  # fmt: skip
        assert run.results[0].trainable == 160 + 10 + 16
        assert predict(tuned, ["good film"], model=backbone)
        assert backbone.on_rows is None

    def test_a_run_that_died_is_resumed_to_the_same_bytes(self, backbone, task, teachers, tmp_path, monkeypatch):
        settings = {"method": "mpt", "sources": teachers, **{**SETTINGS, "eval_every": 3}}
        train(task, backbone, output=tmp_path / "whole", **settings)
        optimize = Loop._optimize
        for died, name in ((2, "early"), (5, "late")):

            def dying(loop, died=died):
                losses = optimize(loop)
                if loop.step == died:
                    raise MemoryError("killed")
                return losses

            monkeypatch.setattr(Loop, "_optimize", dying)
            with pytest.raises(MemoryError):
                train(task, backbone, output=tmp_path / name, **settings)
            monkeypatch.setattr(Loop, "_optimize", optimize)
            resume(tmp_path / name, model=backbone)
            ignored = ("timing.jsonl", "state.json", "manifest.json")
            assert same_files(tmp_path / "whole", tmp_path / name, ignore=ignored)

    @pytest.mark.parametrize("how", ["killed", "stopped"])
    def test_a_run_that_died_in_the_first_part_goes_on_with_it_to_the_same_bytes(
        self, how, backbone, task, teachers, tmp_path, monkeypatch
    ):
        settings = {"method": "mpt", "sources": teachers, **SETTINGS, "eval_every": 2, "grad_accumulation": 2}
        train(task, backbone, output=tmp_path / "whole", **settings)
        take_step, steps = SourceTraining.take_step, []

        def dying(training):
            if how == "killed" and training.step == 4:
                raise MemoryError("killed")
            take_step(training)
            if how == "stopped" and training.step == 4:
                os.kill(os.getpid(), signal.SIGINT)

        def counted(training):
            take_step(training)
            steps.append(training.step)

        monkeypatch.setattr(SourceTraining, "take_step", dying)
        with pytest.raises((MemoryError, Interrupted)):
            train(task, backbone, output=tmp_path / "died", **settings)
        monkeypatch.setattr(SourceTraining, "take_step", counted)
        resume(tmp_path / "died", model=backbone)
        assert steps == [5, 6]
        ignored = ("timing.jsonl", "state.json", "manifest.json")
        assert same_files(tmp_path / "whole", tmp_path / "died", ignore=ignored)

    def test_accumulated_gradients_of_the_first_part_are_those_of_one_large_batch(
        self, backbone, task, teachers, tmp_path, monkeypatch
    ):
        """Of texts of several lengths, so that means over words are no means of means."""
        take_step, batches, sizes = SourceTraining.take_step, SourceTraining._batches, []

        def first_steps(training):
            take_step(training)
            found.append(([p.grad.clone() for p in training.student.parameters()], training.loss))

        def as_one(training, k):
            parts = batches(training, k)
            sizes.append([len(part) for part in parts])
            return [[row for part in parts for row in part]]

        monkeypatch.setattr(SourceTraining, "take_step", first_steps)
        ends, options = [], {**PROBE, "batch_size": 3, "grad_accumulation": 3}
        for name in ("apart", "together"):
            found: list[Any] = []
            train(task, backbone, method="mpt", sources=teachers, output=tmp_path / name, **options)
            ends.append(found)
            monkeypatch.setattr(SourceTraining, "_batches", as_one)
        assert sizes == [[3, 3, 3]] * 2
        ((apart, loss),), ((together, expected),) = ends
        assert loss == pytest.approx(expected, rel=1e-5)
        for a, b in zip(apart, together, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))

    @pytest.mark.parametrize("steps", [1, 3])
    def test_a_first_part_does_not_go_on_with_other_rows(self, steps, backbone, task, teachers, tmp_path, monkeypatch):
        take_step = SourceTraining.take_step
        monkeypatch.setattr(SourceTraining, "take_step", lambda t: take_step(t) if t.step < steps else 1 / 0)
        # As after a SIGKILL, which leaves what a process that ends by itself removes.
        monkeypatch.setattr(folder_module, "_empty", lambda folder: None)
        settings = {**SETTINGS, "eval_every": 2}
        with pytest.raises(ZeroDivisionError):
            train(task, backbone, method="mpt", sources=teachers, output=tmp_path / "run", **settings)
        monkeypatch.setattr(SourceTraining, "_rows", lambda self: "other")
        with pytest.raises(BadInput, match="the rows of the source tasks are not those that"):
            resume(tmp_path / "run", model=backbone)

    def test_a_loss_that_is_not_finite_in_the_first_part_leaves_no_folder(
        self, backbone, task, teachers, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("softprompt.training.transfer.mpt_steps._backward", lambda *parts: float("nan"))
        with pytest.raises(BadInput, match="the loss over the source tasks is nan at step 1; give a lower `lr`"):
            train(task, backbone, method="mpt", sources=teachers, output=tmp_path / "run", **SETTINGS)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("units", ["raw", "rms"])
    def test_the_gradients_of_the_first_part_are_clipped_in_the_units_of_its_prompt(
        self, units, backbone, task, teachers, tmp_path, monkeypatch
    ):
        rms, norms, adamw_step = backbone.word_vectors.square().mean().sqrt().item(), [], torch.optim.AdamW.step

        def step(adamw, *rest):
            unit = rms if units == "rms" else 1.0
            (prompt,), matrices = (group["params"] for group in adamw.param_groups)
            norms.append(torch.cat([(unit * prompt.grad).flatten(), *(p.grad.flatten() for p in matrices)]).norm())
            return adamw_step(adamw, *rest)

        def first_part(training):
            with monkeypatch.context() as patched:
                patched.setattr(torch.optim.AdamW, "step", step)
                return take_step(training)

        take_step = SourceTraining.take_step
        monkeypatch.setattr(SourceTraining, "take_step", first_part)
        for clip in (None, 0.01):
            options = {**SETTINGS, "clip": clip, "units": units, "output": tmp_path / str(clip)}
            train(task, backbone, method="mpt", sources=teachers, **options)
        assert min(norms[:6]) > 0.02
        assert norms[6:] == pytest.approx([0.01] * 6, rel=1e-3)

    @pytest.mark.parametrize(("loss", "kind"), [("auto", TokenLoss), ("labels", LabelLoss), ("both", BothLoss)])
    def test_the_first_part_has_the_loss_that_was_asked_for(
        self, loss, kind, backbone, task, teachers, tmp_path, monkeypatch
    ):
        seen, take_step = [], SourceTraining.take_step
        monkeypatch.setattr(SourceTraining, "take_step", lambda t: seen.extend(t.tasks) or take_step(t))
        train(task, backbone, method="mpt", sources=teachers, output=tmp_path / "run", **{**SETTINGS, "loss": loss})
        assert {type(source.loss) for source in seen} == {kind}

    def test_the_loss_of_a_source_task_is_that_of_the_paper(self, backbone):
        ids = torch.arange(3, 15).view(2, 6)
        mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
        targets = torch.tensor([[5, 6], [8, 9]])
        batch = TextBatch(ids, mask, torch.zeros(2, dtype=torch.long), targets)
        torch.manual_seed(0)
        student, teacher = (PromptBatch.stack([torch.randn(3, 16)]) for _ in range(2))
        found = distillation(backbone, TokenLoss(), student, teacher, batch, 0.9)
        logits, taught = (backbone.logits(prompt, batch) for prompt in (student, teacher))
        entropy = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        p, q = taught.softmax(-1), logits.softmax(-1)
        states = []
        for prompt in (student, teacher):
            for row, length in enumerate((6, 4)):
                embeds = torch.cat([prompt.vectors[0], backbone.model.shared(ids[row, :length])])[None]
                states.append(backbone.model.encoder(inputs_embeds=embeds).last_hidden_state[0, 3:])
        apart = torch.cat(states[:2]) - torch.cat(states[2:])
        expected = entropy + 0.9 * ((p * (p / q).log()).sum(-1).mean() + apart.square().mean())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_the_prompt_of_a_task_is_the_shared_one_times_its_matrix(self, backbone):
        shared = Shared.new(backbone, 4, 2, 0, tasks=3)
        u, v = shared.columns[1], shared.rows[1]
        product = u[:, :1] * v[0] + u[:, 1:] * v[1]
        torch.testing.assert_close(shared.of(1), shared.prompt * product)
        torch.testing.assert_close(shared.mean().columns[0], shared.columns.mean(0))
        # A new task begins close to words.
        torch.testing.assert_close(shared.of(0), shared.prompt, rtol=0.2, atol=1e-3)

    def test_one_task_is_refused(self, backbone, task, teachers, tmp_path):
        for sources, error in (
            (teachers[:1], "'mpt' begins from 2 or more prompts of other tasks, and 1 is given"),
            ([teachers[0]] * 2, "these are of reviews, reviews"),
        ):
            with pytest.raises(BadInput, match=error):
                train(task, backbone, method="mpt", sources=sources, output=tmp_path / "run", **SETTINGS)

    def test_a_deep_source_is_refused_before_the_first_part(self, backbone, task, teachers, tmp_path):
        other = SoftPrompt.load(teachers[1])
        deep = dataclasses.replace(other, deep=other.vectors.expand(len(backbone.layers) - 1, -1, -1).clone())
        paths = [*teachers[:1], kept(deep, tmp_path / "deep")]
        with pytest.raises(BadInput, match="is a deep prompt, and sources stand in the first layer"):
            train(task, backbone, method="mpt", sources=paths, output=tmp_path / "run", **SETTINGS)
        assert not (tmp_path / "run").exists()

    def test_a_source_without_its_task_is_refused(self, backbone, task, source, teachers, tmp_path):
        bare = dataclasses.replace(source, provenance=dataclasses.replace(source.provenance, task=None))
        sources = [teachers[0], kept(bare, tmp_path / "bare")]
        with pytest.raises(BadInput, match="does not record its task"):
            train(task, backbone, method="mpt", sources=sources, output=tmp_path / "run", **SETTINGS)


class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "remedy"),
        [("label_column", "answers=.label-words."), ("number_column", "a model that writes its answers")],
    )
    def test_a_prompt_of_several_tasks_is_no_matter_of_heads(self, answer, remedy, teachers, tiny_bert, tmp_path):
        rows = [{"text": f"good film {number}", "value": number % 2} for number in range(20)]
        backbone = from_model(*tiny_bert(), name="tiny", answers="linear-head")
        with pytest.raises(BadInput, match=f"answers each by a linear head of its own; give {remedy}$"):
            train(
                rows, backbone, text_column="text", **{answer: "value"}, method="mpt", sources=teachers,
                output=tmp_path / "run", **SETTINGS,
            )  # fmt: skip

    @pytest.mark.parametrize("method", ["spot", "attempt"])
    def test_a_method_of_sources_needs_one(self, method, backbone, task, tmp_path):
        with pytest.raises(
            BadInput, match=f"'{method}' begins from 1 or more prompts of other tasks, and none is given"
        ):
            train(task, backbone, method=method, output=tmp_path / "run", **SETTINGS)

    def test_spot_has_no_other_beginning(self, backbone, task, source, tmp_path):
        path = kept(source, tmp_path / "a")
        with pytest.raises(BadInput, match=r"vocabulary. both say how 'spot' begins"):
            train(task, backbone, method="spot", sources=path, init="vocabulary", output=tmp_path / "run", **SETTINGS)

    def test_a_method_without_sources_takes_none_unless_another_of_the_run_does(self, backbone, task, source, tmp_path):
        path = kept(source, tmp_path / "a")
        with pytest.raises(BadInput, match="'ept' begins from no source prompt"):
            train(task, backbone, method="ept", sources=path, output=tmp_path / "run", **SETTINGS)
        run = train(task, backbone, method=["ept", "spot"], sources=path, output=tmp_path / "run", **SETTINGS)
        assert [result.method for result in run.results] == ["ept", "spot"]

    @pytest.mark.parametrize("method", ["spot", "attempt"])
    def test_a_source_of_another_model_or_width_is_refused(self, method, backbone, task, source, tmp_path, tiny_t5):
        path = kept(source, tmp_path / "a")
        others = [tiny_t5(seed=3), tiny_t5(d_model=24)]
        for number, other in enumerate(others):
            other = from_model(*other, name="other-t5", engine="reference")
            # Of two sources the first is of this model, and the message says that it is the second one which is not.
            right = dataclasses.replace(source.provenance, backbone=other.identity())
            vectors = torch.ones(10, other.embedding_size)
            own = kept(SoftPrompt(vectors, right), tmp_path / f"own-{number}")
            with pytest.raises(ModelMismatch, match=f"^source prompt '{path}': this prompt was trained for 't5'"):
                train(
                    task, other, method=method, sources=[own, path],
                    output=tmp_path / str(number), **SETTINGS,
                )  # fmt: skip
            assert not (tmp_path / str(number)).exists()

    def test_a_source_that_is_not_there_is_found_before_the_model_is_loaded(self, task, tmp_path):
        with pytest.raises(BadInput, match="nowhere"):
            train(task, "no/such-model", method="spot", sources=str(tmp_path / "nowhere"), output=tmp_path / "run")


class TestRegularizers:
    @pytest.mark.parametrize("method", ["lora", "dept"])
    def test_a_regulariser_of_the_input_acts_on_what_trains_no_prompt(self, method, backbone, task, tmp_path):
        losses = {}
        for name in ("", "rn-emb:sigma=0.5,alpha=1"):
            run = train(
                task, backbone, method=method, lr=0.01, regularizer=name, output=tmp_path / (name[:2] or "plain"),
                **SETTINGS,
            )  # fmt: skip
            record = read_record(run.folder / f"{method}-seed0" / "metrics.jsonl")
            losses[name] = [row for row in record if "loss" in row]
        plain, regular = losses.values()
        assert regular[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-5)
        assert regular[0]["divergence"] > 0
        assert regular[-1]["loss"] != plain[-1]["loss"]

    def test_one_of_the_prompt_alone_is_refused(self, backbone, task, tmp_path):
        with pytest.raises(BadInput, match="the method may have no prompt"):
            train(task, backbone, method="lora", regularizer="rn-emb:where=prompt", output=tmp_path / "run", **SETTINGS)


@pytest.mark.parametrize("method", ["spot", "attempt"])
def test_without_a_length_a_prompt_is_as_long_as_its_sources(method, backbone, task, source, tmp_path):
    short = dataclasses.replace(source, vectors=source.vectors[:4])
    paths = [kept(short, tmp_path / "a"), kept(dataclasses.replace(short, vectors=-short.vectors), tmp_path / "b")]
    run = train(task, backbone, method=method, sources=paths, output=tmp_path / "run", **SETTINGS)
    assert load(run.folder).length == 4
    uneven = [*paths, kept(dataclasses.replace(source, vectors=source.vectors[:3]), tmp_path / "c")]
    for sources, length in ((paths, {"prompt_length": 6}), (uneven, {})):
        with pytest.raises(BadInput, match=r"give (as many by )?`prompt_length`"):
            train(task, backbone, method=method, sources=sources, output=tmp_path / "no", **length, **SETTINGS)
        assert not (tmp_path / "no").exists()


def test_the_sources_of_a_run_have_whole_paths(backbone, task, source, tmp_path, monkeypatch):
    kept(source, tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    run = train(task, backbone, method="spot", sources="a", output=tmp_path / "run", **SETTINGS)
    (prompt,) = json.loads((run.folder / "run.json").read_text())["prompts"]
    assert prompt["sources"] == [str(tmp_path / "a")]
    assert isinstance(SoftPrompt.load(run.folder), SoftPrompt)


def test_the_command_line_asks_for_sources_by_their_flag(tmp_path, capsys):
    command = ["train", "--task", "lab/opinion", "--model", "lab-t5-small", "--method", "attempt"]
    for option in ("train=16", "validation=8", "test=8"):
        command += ["--task-option", option]
    assert main([*command, "--output", str(tmp_path / "run")]) == 2
    assert "give --source PROMPT for each" in capsys.readouterr().err
    assert main([*command, "--source", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
