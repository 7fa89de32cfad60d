"""The run store: what is kept, found again, and refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from softprompt import backbones, training
from softprompt import store as store_module
from softprompt.backbones import load_backbone
from softprompt.errors import BadInput, DamagedFile, StorageFailure, UnknownName
from softprompt.prompts.prompt import SoftPrompt
from softprompt.settings import PromptSettings
from softprompt.study import RunsFailed, damaged_runs, grid, kept_prompt, missing, read
from softprompt.study._stored import load, path_of
from softprompt.training import Interrupted, read_record
from softprompt.training._loop import Loop

from study_kit import QUICK, contents, quietly


@pytest.fixture
def stopped(monkeypatch):
    """Begins runs in a store and ends before their fourth step, as Ctrl-C does."""

    def go(specs, store, **options):
        optimize = Loop._optimize

        def stop(loop):
            if loop.step == 3:
                raise KeyboardInterrupt
            return optimize(loop)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_optimize", stop)
            with pytest.raises((Interrupted, KeyboardInterrupt)):
                quietly(specs, store, **options)

    return go


class TestStore:
    def test_runs_come_back_in_order_and_hold_what_the_records_say(self, specs, tmp_path):
        store = tmp_path / "store"
        runs = quietly([*specs, specs[0]], store, keep=True)
        assert [run.name for run in runs] == [spec.name for spec in [*specs, specs[0]]]
        assert [run.spec for run in runs[:8]] == specs
        assert read(store, specs) == runs[:8]
        folders = sorted((store / "fleets").iterdir())
        assert len(folders) == 2
        assert {run.fleet for run in runs} == {tuple(s.name for s in specs[:4]), tuple(s.name for s in specs[4:])}
        backbone = load_backbone(specs[0].model)
        for folder in folders:
            results = training.resume(folder / "run", model=backbone).results
            lead = json.loads((folder / "fleet.json").read_text())["names"]
            for name, result in zip(lead, results, strict=True):
                run = load(store, name)
                assert run is not None
                assert (run.metrics, run.best_step, run.status) == (result.metrics, result.best_step, result.status)
                assert (run.trainable, run.stored, run.warnings) == (result.trainable, result.stored, result.warnings)
                rows = list(read_record(folder / "run" / result.prompt / "metrics.jsonl"))
                losses = [row["loss"] for row in rows if "loss" in row]
                assert run.curve["loss"] == pytest.approx(losses, rel=1e-5)
                assert run.curve["step"] == [1, 2, 3, 4]
                assert run.validation["score"] == [row["score"] for row in rows if row.get("split") == "validation"]
                assert run.seconds == pytest.approx(result.seconds / 4, abs=1e-3)
            assert not (folder / "run" / "checkpoints").exists()
        kept = kept_prompt(store, runs[0])
        kept.rename(kept.with_name("weights"))
        with pytest.raises(
            BadInput, match=f"keeps weights of run {runs[0].name} .*, not a prompt, in .*weights; `softprompt.load` "
        ):
            kept_prompt(store, runs[0])

    def test_work_folders_are_gone_when_their_runs_are_stored(self, specs, tmp_path):
        quietly(specs[:2], tmp_path / "store")
        assert list((tmp_path / "store" / "fleets").iterdir()) == []

    def test_what_is_stored_is_never_trained_again(self, specs, tmp_path, monkeypatch):
        store = tmp_path / "store"
        first = quietly(specs[:2], store)
        before = contents(store)
        assert missing(store, specs) == specs[2:]
        monkeypatch.setattr(training, "train", lambda *a, **k: pytest.fail("trained again"))
        again = quietly([dataclasses.replace(spec, tags={"other": 1}) for spec in specs[:2]], store)
        assert again == first
        assert contents(store) == before

    def test_a_longer_list_trains_only_what_is_new(self, specs, tmp_path):
        store = tmp_path / "store"
        quietly(specs[1:2], store)
        quietly(specs[:3], store)
        runs = [run for run in read(store, specs[:3]) if run]
        assert [run.fleet for run in runs] == [
            (specs[0].name, specs[2].name), (specs[1].name,), (specs[0].name, specs[2].name)
        ]  # fmt: skip

    def test_a_fleet_of_four_equals_its_runs_alone(self, specs, tmp_path):
        together, alone = quietly(specs, tmp_path / "four"), quietly(specs, tmp_path / "one", fleet_size=1)
        for a, b in zip(together, alone, strict=True):
            assert (len(a.fleet), len(b.fleet)) == (4, 1)
            assert a.metrics == b.metrics
            assert a.best_step == b.best_step
            assert a.curve["loss"] == pytest.approx(b.curve["loss"], rel=1e-3)

    def test_a_prompt_that_turns_nan_is_a_result(self, specs, tmp_path, monkeypatch):
        optimize = Loop._optimize

        def poisoned(loop):
            if loop.step == 1:
                loop.members[0].trainable.initial.data[0, 0] = float("nan")
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", poisoned)
        first, second = quietly(specs[:2], tmp_path / "store")
        assert first.status.startswith("dropped at step 1")
        assert first.is_dropped
        assert (first.score, first.validation_score, first.metrics) == (None, None, {})
        assert first.curve["step"] == []
        assert second.status == "finished"
        assert second.score is not None

    def test_a_damaged_run_is_named_and_trained_again_when_deleted(self, specs, tmp_path):
        store = tmp_path / "store"
        whole = quietly(specs[:1], store)
        path = path_of(store, specs[0].name)
        content = path.read_bytes()
        damages = [
            content.replace(b'"dtype":"float32"', b'"dtype":"float64"'),
            content[: len(content) // 2],
            b"",
            b"[]",
            b"\xff" + content[1:],
        ]
        for damaged in damages:
            path.write_bytes(damaged)
            for call in (lambda: read(store, specs[:1]), lambda: quietly(specs[:1], store)):
                with pytest.raises(DamagedFile, match=rf"{path.name}.* (is not|holds no) .*; delete it"):
                    call()
        path.unlink()
        again = quietly(specs[:1], store)
        assert dataclasses.replace(again[0], seconds=0.0) == dataclasses.replace(whole[0], seconds=0.0)

    def test_a_run_under_the_name_of_another_is_named(self, specs, tmp_path):
        store = tmp_path / "store"
        quietly(specs[:2], store)
        path_of(store, specs[0].name).write_bytes(path_of(store, specs[1].name).read_bytes())
        with pytest.raises(DamagedFile, match=specs[0].name):
            read(store, specs[:2])

    def test_rows_that_changed_are_refused_even_where_nothing_is_left_to_train(self, specs, task, tmp_path):
        store = tmp_path / "store"
        quietly(specs[:1], store)
        file = Path(task.source.files["train"])
        file.write_text(file.read_text().replace("good", "fine", 1))
        with pytest.raises(BadInput, match=r"train.csv is not what run .* was trained with"):
            quietly(specs[:1], store)
        file.unlink()
        assert quietly(specs[:1], store)

    @pytest.mark.parametrize("begins", ["init", "sources"])
    def test_a_prompt_that_a_run_began_from_is_refused_once_it_is_another(self, begins, specs, tmp_path):
        store, source = tmp_path / "store", tmp_path / "source"
        first = specs[0]
        for folder, seed in ((source, 0), (tmp_path / "other", 1)):
            training.train(first.declared, first.model, seeds=seed, steps=2, eval_every=1, output=folder)
        given: dict[str, Any] = (
            {"init": f"prompt:{source}"} if begins == "init" else {"method": "spot", "sources": (str(source),)}
        )
        spec = dataclasses.replace(first, prompt=PromptSettings(**given))
        quietly([spec], store)
        assert quietly([spec], store)
        shutil.rmtree(source)
        (tmp_path / "other").rename(source)
        with pytest.raises(BadInput, match=r"source is not what run .* was trained with"):
            quietly([spec], store)

    def test_kept_runs_whose_results_were_deleted_are_trained_again_on_the_rows_of_today(self, specs, task, tmp_path):
        store, fresh = tmp_path / "store", tmp_path / "fresh"
        before = quietly(specs[:2], store, keep=True)
        file = Path(task.source.files["train"])
        file.write_text(file.read_text().replace("film", "play"))
        for run in before:
            path_of(store, run.name).unlink()
        again, expected = quietly(specs[:2], store, keep=True), quietly(specs[:2], fresh)
        assert [run.curve for run in again] == [run.curve for run in expected] != [run.curve for run in before]
        assert [run.inputs for run in again] == [run.inputs for run in expected] != [run.inputs for run in before]
        # Of one of them alone, the prompt of the other stays.
        path_of(store, specs[0].name).unlink()
        one = quietly(specs[:1], store, keep=True)[0]
        assert all(kept_prompt(store, run).is_dir() for run in (one, again[1]))

    def test_a_fleet_goes_on_with_the_files_that_it_began_from_alone(self, specs, tmp_path, stopped):
        store, vectors = tmp_path / "store", tmp_path / "vectors.npy"
        np.save(vectors, np.ones((3, 16), dtype=np.float32))
        given = PromptSettings(init=f"file:{vectors}", options={"prompt_length": 3})
        spec = dataclasses.replace(specs[0], prompt=given)
        stopped([spec], store)
        np.save(vectors, np.zeros((3, 16), dtype=np.float32))
        for _ in range(2):
            with pytest.raises(BadInput, match=r"vectors.npy is not what the runs in .* were begun with; restore it"):
                quietly([spec], store)
        np.save(vectors, np.ones((3, 16), dtype=np.float32))
        (run,) = quietly([spec], store)
        assert quietly([spec], store) == [run]

    def test_what_is_no_run_of_a_study_stops_none(self, specs, tmp_path):
        # Of the failure a killed process left no more than the folder.
        (tmp_path / "failed" / specs[0].name).mkdir(parents=True)
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "notes.json").write_text('{"mine": 1}')
        assert len(quietly(specs[:1], tmp_path)) == 1
        assert list(damaged_runs(tmp_path)) == []

    def test_prompts_that_are_as_long_as_their_vectors_share_no_pass_with_others(self, specs, tmp_path):
        inits = ["uniform"]
        for length in (3, 4):
            np.save(tmp_path / f"{length}.npy", np.ones((length, 16), dtype=np.float32))
            inits.append(f"file:{tmp_path / f'{length}.npy'}")

        def specs_of(options):
            prompts = [PromptSettings(init=init, options=options) for init in inits]
            return [dataclasses.replace(specs[0], prompt=prompt) for prompt in prompts]

        runs, given = specs_of({}), specs_of({"prompt_length": 2})
        assert len({spec.pass_key() for spec in runs}) == 3
        assert len({spec.pass_key() for spec in given}) == 1
        store = tmp_path / "store"
        prompts = [SoftPrompt.load(kept_prompt(store, run)) for run in quietly(runs, store, keep=True)]
        assert [prompt.length for prompt in prompts] == [10, 3, 4]
        assert [run.spec.prompt.options for run in quietly(runs, store)] == [{}, {}, {}]

    def test_a_fleet_goes_on_with_the_rows_of_a_published_task_that_it_began_from_alone(self, model, tmp_path, stopped):
        store, root = tmp_path / "store", tmp_path / "root"
        (root / "glue" / "rte").mkdir(parents=True)
        files = [root / "glue" / "rte" / f"{split}.jsonl" for split in ("train", "validation")]
        words = ("good film", "bad movie", "very good", "was bad")
        rows = [{"sentence1": words[n % 4], "sentence2": words[n % 3], "label": n % 2} for n in range(24)]
        for file in files:
            file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        before = files[0].read_text()
        specs = grid(task="glue/rte", model=model, method="prompt-tuning", **QUICK)
        stopped(specs, store, data_root=root)
        files[0].write_text(before.replace("film", "movie"))
        # Twice: it is no failure of the run.
        for _ in range(2):
            with pytest.raises(BadInput, match=r"the rows are not those that the runs in .* were begun with; restore"):
                quietly(specs, store, data_root=root)
        files[0].write_text(before)
        (run,) = quietly(specs, store, data_root=root)
        assert run.metrics == quietly(specs, tmp_path / "fresh", data_root=root)[0].metrics

    def test_a_fleet_does_not_go_on_with_a_model_that_was_trained_on(self, specs, tmp_path, model, stopped):
        store, folder = tmp_path / "store", tmp_path / "model"
        shutil.copytree(model, folder)
        spec = dataclasses.replace(specs[0], model=str(folder))
        stopped([spec], store)
        weights = load_file(folder / "model.safetensors")
        weights["encoder.block.0.layer.0.SelfAttention.q.weight"] *= 1.01
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        # Twice: it is no failure of the run.
        for _ in range(2):
            with pytest.raises(BadInput, match=r"the weights of .* are not those that .* was started with"):
                quietly([spec], store)

    def test_another_model_in_the_same_folder_is_refused(self, specs, tiny_t5, save_tiny, tmp_path, task):
        folder, store = tmp_path / "model", tmp_path / "store"
        axes = {"task": task, "model": str(folder), "method": "ept-star", **QUICK}
        save_tiny(folder, *tiny_t5())
        quietly(grid(**axes), store)
        save_tiny(folder, *tiny_t5(seed=9))
        with pytest.raises(BadInput, match="is not the model that run"):
            quietly(grid(**axes, seed=1), store)
        assert quietly(grid(**axes), store)

    def test_an_error_names_its_run_and_leaves_nothing_to_stumble_over(self, specs, tmp_path, monkeypatch):
        store = tmp_path / "store"
        bad = dataclasses.replace(specs[0], prompt=PromptSettings(init="text:"))
        told = rf"run {bad.name} \(prompt-tuning, seed 0, reviews, .*\): unknown initialiser"
        with pytest.raises(UnknownName, match=told):
            quietly([bad], store)
        assert not list(store.glob("fleets/*"))
        none = dataclasses.replace(specs[0], model=str(tmp_path / "nowhere"))
        with pytest.raises(BadInput, match=rf"run {none.name} .*no model folder"):
            quietly([none], store)

    def test_of_runs_that_fail_together_only_the_one_that_fails_alone_is_marked(self, specs, tmp_path, monkeypatch):
        store, train = tmp_path / "store", training.train
        asked = []

        def broken(*arguments, prompts, **options):
            asked.append(len(prompts))
            if specs[1].prompt in prompts:
                raise MemoryError("no memory left")
            return train(*arguments, prompts=prompts, **options)

        monkeypatch.setattr(training, "train", broken)
        with pytest.raises(RunsFailed, match=r"1 of 4 runs failed, .*; the first: MemoryError: no memory left"):
            quietly(specs[:4], store)
        assert asked == [4, 1, 1, 1, 1]
        assert [run is not None for run in read(store, specs[:4])] == [True, False, True, True]
        assert (
            f"while training {specs[1].describe()}" in (store / "failed" / specs[1].name / "traceback.txt").read_text()
        )
        with pytest.raises(RunsFailed, match="1 of 4"):
            quietly(specs[:4], store)
        assert len(asked) == 5, "a run that failed is not tried again"
        monkeypatch.undo()
        assert all(quietly(specs[:4], store, retry_failed=True))
        assert not list((store / "failed").iterdir())

    def test_a_full_disk_stops_the_study_and_marks_no_run(self, specs, tmp_path, monkeypatch):
        store, write = tmp_path / "store", store_module.write_file

        def full(target, content, *, what, replace=False):
            if target.parent.name == "runs":
                raise StorageFailure(f"could not write {what}: No space left on device")
            return write(target, content, what=what, replace=replace)

        monkeypatch.setattr(store_module, "write_file", full)
        with pytest.raises(StorageFailure, match="No space left on device"):
            quietly(specs[:2], store)
        assert not list(store.glob("failed/*"))
        monkeypatch.undo()
        monkeypatch.setattr(Loop, "_optimize", lambda loop: pytest.fail("trained again"))
        assert len(quietly(specs[:2], store)) == 2

    @pytest.mark.parametrize("options", [{"fleet_size": 0}, {"workers": 0}])
    def test_no_prompts_and_no_workers_are_refused(self, options, specs, tmp_path):
        with pytest.raises(BadInput, match="must be positive"):
            quietly(specs, tmp_path / "store", **options)

    def test_a_task_whose_template_shows_the_answer_is_refused(self, specs, task, tmp_path):
        showing = dataclasses.replace(task, template="{text} {label}")
        with pytest.raises(BadInput, match="column 'label' is the answer"):
            quietly([dataclasses.replace(specs[0], task=showing)], tmp_path / "store")

    def test_gradient_checkpointing_does_not_outlive_its_fleet(self, task, model, tmp_path, monkeypatch):
        seen = []
        optimize = Loop._optimize

        def watched(loop):
            layers = loop.run_data.backbone.model.modules()
            seen.append(any("forward" in layer.__dict__ for layer in layers))
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", watched)
        axes = {"task": task, "model": model, "steps": 1, "eval_every": 1, "batch_size": 4}
        quietly(grid(**axes, gradient_checkpointing=[True, False]), tmp_path / "store")
        assert seen == [True, False]

    def test_a_model_is_loaded_once_for_all_its_fleets(self, specs, tmp_path, monkeypatch):
        loaded = []
        load_one = backbones.load_backbone
        monkeypatch.setattr(backbones, "load_backbone", lambda *a, **k: (loaded.append(a), load_one(*a, **k))[1])
        quietly(specs, tmp_path / "store", fleet_size=2)
        assert len(loaded) == 1

    def test_keywords_of_the_backbone_reach_it(self, specs, tmp_path, monkeypatch):
        seen = []
        load_one = backbones.load_backbone

        def watched(spec):
            seen.append((spec.embedding_scale, spec.dtype))
            return load_one(spec)

        monkeypatch.setattr(backbones, "load_backbone", watched)
        both = [dataclasses.replace(specs[0], backbone={"embedding_scale": 2.0}), specs[0]]
        runs = quietly(both, tmp_path / "store")
        assert seen == [(2.0, "float32"), (1.0, "float32")]
        assert runs[0].name != runs[1].name
