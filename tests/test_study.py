"""The run store: names, claims, kills, several processes; and tables against numpy and scipy."""

import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats
from softprompt import backbones, training
from softprompt import store as store_module
from softprompt.backbones import load_backbone
from softprompt.cli import main
from softprompt.errors import BadInput, DamagedFile, StorageFailure, UnknownName
from softprompt.metrics import is_stuck
from softprompt.prompts.methods import METHODS
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import (
    RunsFailed,
    RunSpec,
    StoredRun,
    compare,
    export,
    grid,
    kept_prompt,
    load_specs,
    markdown,
    missing,
    plan,
    read,
    rows_of,
    run_all,
    summary,
)  # fmt: skip
from softprompt.study import _fleets as fleets
from softprompt.study import _lease as lease_module
from softprompt.study import _work as run_module
from softprompt.study import _workers as workers
from softprompt.study._failed import mark_failed
from softprompt.study._fleets import claim, finish, give_up, group
from softprompt.study._progress import state
from softprompt.study._stored import POINTS, curves, load, path_of, to_bytes
from softprompt.study.statistics import bootstrap, ratio_of_deviations, settled, wilcoxon
from softprompt.study.tables import ceilings, columns, is_column, stuck, value, varying
from softprompt.tasks import TASKS, with_difficulty
from softprompt.training import Interrupted, read_record
from softprompt.training._loop import Loop
from softprompt.training._measure import Measured

from kit import review_task

QUICK = {"steps": 4, "eval_every": 2, "batch_size": 4}
RTE = RunSpec(task="glue/rte", model="m", prompt=PromptSettings(method="ept-star"))


@pytest.fixture(scope="session")
def model(tiny_t5, save_tiny, tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "t5", *tiny_t5()))


@pytest.fixture
def task(tmp_path):
    return review_task(tmp_path / "data")


@pytest.fixture
def specs(task, model):
    """Two fleets of four: EPT* and prompt tuning of equal length, at two learning rates, two seeds."""
    return grid(task=task, model=model, method=["ept-star", "prompt-tuning"], lr=[0.1, 0.3], seed=[0, 1], **QUICK)


def quietly(specs, store, **options):
    return run_all(specs, store, progress=False, device="cpu", **options)


def contents(store: Path) -> dict[str, Any]:
    """Everything in the stored runs but their seconds."""
    found = {}
    for path in sorted((store / "runs").iterdir()):
        values = json.loads(path.read_bytes())["run"]
        assert values.pop("seconds") > 0
        found[path.name] = json.dumps(values)
    return found


def changed(name: str, hint: Any, default: Any) -> Any:
    """Another value for a setting, whatever it is: a setting that is added later is tested by being there."""
    special = {
        "method": "ept", "options": {"hidden": 3}, "seeds": Seeds(noise=1), "task": "glue/sst2", "style": "t5",
        "backbone": {"attn_implementation": "eager"}, "regularizer": "rn-emb", "class_weights": "balanced",
        "skip_spikes": 3.0,
    }  # fmt: skip
    if name in special:
        return special[name]
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return next(kind for kind in kinds if kind != default)
    return {bool: not default, int: 7, float: 0.7, str: "other"}[kinds[0]]


def changes() -> Iterator[tuple[str, RunSpec]]:
    for kind, part in ((PromptSettings, "prompt"), (TrainSettings, "settings"), (RunSpec, "")):
        for f in dataclasses.fields(kind):
            if f.name not in ("prompt", "settings", "tags"):
                now = getattr(getattr(RTE, part) if part else RTE, f.name)
                one = {f.name: changed(f.name, typing.get_type_hints(kind)[f.name], now)}
                whole = {part: dataclasses.replace(getattr(RTE, part), **one)} if part else one
                yield f"{part}.{f.name}", dataclasses.replace(RTE, **whole)


class TestNames:
    def test_every_setting_changes_the_name_and_no_two_changes_agree(self):
        names = [RTE.name, *(spec.name for _, spec in changes())]
        assert len(set(names)) == len(names) > 30

    def test_each_seed_changes_the_name(self):
        names = {
            dataclasses.replace(RTE, prompt=dataclasses.replace(RTE.prompt, seeds=Seeds(**{f.name: 1}))).name
            for f in dataclasses.fields(Seeds)
        }
        assert len(names | {RTE.name}) == 5

    def test_equal_runs_have_equal_names_however_they_are_written(self):
        prompt = PromptSettings(method="ept", options={"hidden": "3", "repeats": 2}, lr=1.0)
        again = PromptSettings(method="ept", options={"repeats": 2, "hidden": 3}, lr=1.0)
        a = RunSpec(task="glue/rte", model="m", prompt=prompt, backbone={"s": 30.0}, tags={"part": 1})
        b = RunSpec(task=TASKS["glue/rte"], model="m", prompt=again, backbone={"s": 30})
        assert a.name == b.name
        assert a.name == RunSpec.from_json(json.loads(json.dumps(a.to_json()))).name

    def test_an_option_given_at_its_default_is_the_same_run(self):
        defaults = METHODS["ept"].defaults
        prompt = PromptSettings(method="ept", options={name: defaults[name] for name in list(defaults)[:1]})
        assert (
            dataclasses.replace(RTE, prompt=prompt).name
            == dataclasses.replace(RTE, prompt=PromptSettings(method="ept")).name
        )

    def test_another_default_in_the_code_is_another_run(self, monkeypatch):
        given = dataclasses.replace(RTE, prompt=dataclasses.replace(RTE.prompt, lr=0.1))
        before = RTE.name, given.name
        method = dataclasses.replace(METHODS["ept-star"], lr=0.123)
        monkeypatch.setitem(METHODS, "ept-star", method)
        after = dataclasses.replace(RTE).name, dataclasses.replace(given).name
        assert after[0] != before[0]
        # The default learning rate is nothing to a run that names its own.
        assert after[1] == before[1]
        monkeypatch.setitem(METHODS, "ept-star", dataclasses.replace(method, repeats=7))
        assert dataclasses.replace(given).name != before[1]

    def test_a_setting_that_is_off_counts_as_absent(self):
        values = RTE.numbers()
        assert "backbone" not in values
        assert "clip" not in values["settings"]
        assert "backbone_dropout" not in values["settings"]
        assert values["lane"]["seeds"] == dict.fromkeys(("initialization", "order", "draw", "noise"), 0)

    def test_numbers_that_are_none_are_refused(self):
        with pytest.raises(BadInput, match="nan cannot be part of a run"):
            RunSpec(task="glue/rte", model="m", backbone={"embedding_scale": float("nan")})

    def test_unknown_methods_and_options_are_named_before_anything_runs(self, tmp_path):
        for prompt, message in (
            (PromptSettings(method="ept-sta"), "ept-star"),
            (PromptSettings(method="ept", options={"hiden": 3}), "hidden"),
        ):
            with pytest.raises(UnknownName, match=message):
                quietly([dataclasses.replace(RTE, prompt=prompt)], tmp_path / "store")
        assert not (tmp_path / "store").exists()


class TestGrid:
    def test_the_product_is_in_the_order_of_the_axes(self):
        specs = grid(model="m", lr=[0.1, 1], task=["glue/rte", "glue/sst2"], seed=range(2), draw_seed=5, clip=1)
        assert [(s.prompt.lr, s.declared.name, s.prompt.seeds.order) for s in specs] == [
            (lr, task, seed) for lr in (0.1, 1.0) for task in ("glue/rte", "glue/sst2") for seed in (0, 1)
        ]
        assert {s.prompt.seeds.draw for s in specs} == {5}
        assert isinstance(specs[0].settings.clip, float)

    @pytest.mark.parametrize(
        ("axes", "message"),
        [
            ({"stepz": 3}, "Did you mean 'steps'"),
            ({"steps": "many"}, "steps must be of type int or left out, not 'many'"),
            ({"steps": True}, "steps must be"),
            ({"schedule": "cosine"}, "'linear' or 'constant'"),
            ({"seed": []}, "seed has no values"),
            ({"model": []}, "model has no values"),
            ({"backbone": {"dtype": "bfloat16"}}, "backbone has 'dtype', which is the run's own 'dtype'; give that"),
            ({"backbone": [{}, {"name": "n"}]}, "backbone has 'name', which is the run's own 'model'"),
            ({"backbone": {"device": "cpu"}}, "backbone has 'device', and a run is of no machine; leave it out"),
        ],
    )
    def test_mistakes_are_named(self, axes, message):
        with pytest.raises((UnknownName, BadInput), match=message):
            grid(**{"task": "glue/rte", "model": "m", **axes})
        with pytest.raises(BadInput, match="no model"):
            grid(task="glue/rte")

    def test_fleets_hold_runs_that_agree_in_all_but_the_prompt(self):
        axes = {"task": "glue/rte", "model": "m"}
        five = grid(**axes, method=["ept-star", "residual"], seed=[0, 1], tags={"part": "a"})[:3]
        other = grid(**axes, steps=7, seed=[0, 1])
        longer = grid(**axes, method="prompt-tuning", options={"prompt_length": 20})
        dropout = grid(**axes, backbone_dropout=True, seed=[0, 1])
        groups = group([*five, other[0], *longer, *dropout, *five, other[1]], 2)
        assert [[s.name for s in members] for members in groups] == [
            [five[0].name, five[1].name], [five[2].name], [other[0].name, other[1].name], [longer[0].name],
            [dropout[0].name], [dropout[1].name],
        ]  # fmt: skip

    def test_a_study_file_is_a_list_of_grids(self, tmp_path):
        review_task(tmp_path / "rows")
        file = tmp_path / "study.toml"
        file.write_text(
            """
            [defaults]
            model = "m"
            steps = 5
            [tasks.reviews]
            files = {train = "rows/train.csv", test = "rows/test.csv"}
            text_columns = ["text"]
            label_column = "label"
            [[runs]]
            task = ["glue/rte", "reviews"]
            method = "ept"
            options = {hidden = 3}
            [[runs]]
            task = "reviews"
            seed = [0, 1]
            steps = 6
            """
        )
        specs = load_specs(file)
        shown = [(s.declared.name, s.settings.steps, s.prompt.seeds.order, dict(s.prompt.options)) for s in specs]
        assert shown == [
            ("glue/rte", 5, 0, {"hidden": 3}), ("reviews", 5, 0, {"hidden": 3}), ("reviews", 6, 0, {}),
            ("reviews", 6, 1, {}),
        ]  # fmt: skip
        assert specs[1].declared.source.files["train"] == str(tmp_path / "rows" / "train.csv")

    def test_a_study_file_makes_lab_tasks_harder(self, tmp_path):
        file = tmp_path / "study.toml"
        file.write_text(
            """
            [tasks.hard-colors]
            lab = "lab/color"
            noise = 4
            label_noise = 0.1
            [[runs]]
            task = ["lab/color", "hard-colors"]
            model = "lab-t5"
            """
        )
        plain, hard = (spec.declared for spec in load_specs(file))
        assert hard == dataclasses.replace(with_difficulty(plain, noise=4, label_noise=0.1), name="hard-colors")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[tasks.mine]\nlab = 'lab/colour'\n[[runs]]", "Did you mean 'lab/color'"),
            ("[tasks.mine]\nlab = 'lab/color'\nnoice = 3\n[[runs]]", "Did you mean 'noise'"),
            ("[tasks.mine]\nlab = 'lab/color'\nnoise = 'much'\n[[runs]]", "noise is a whole number, not 'much'"),
            ("", "no runs"),
            ("runs = 3", "no runs"),
            ("runs = [3]", "hold tables"),
            ("[[run]]", "Did you mean 'runs'"),
            ("[[runs]]\nmodel = 'm'", "no task"),
            ("[[runs]]\nmodel = 'm'\ntask = 'glue/sst'", "glue/sst2"),
            ("[[runs]]\nmodel = 'm'\ntask = 'glue/sst2'\nmethods = 'ept'", "Did you mean 'method'"),
            ("[[runs]", "is not TOML"),
            ("[tasks.mine]\nlabels = 3\n[[runs]]", "label_words|label_column"),
            ("[tasks.mine]\nlabel_column = 1\n[[runs]]", "task 'mine': label_column must be text, not 1"),
            ("[tasks.mine]\ntemplate = ['{a}']\n[[runs]]", "template must be text"),
            ("[tasks.mine]\ntext_columns = [1]\n[[runs]]", "text_columns must be text, or a list of texts"),
            ("[tasks.mine]\nfiles = 3\n[[runs]]", "files of 'train' must be a path, or a list of paths, not 3"),
            ("[tasks.mine]\nfiles = {test = [1]}\n[[runs]]", "files of 'test' must be a path"),
        ],
    )
    def test_mistakes_in_a_study_file_are_named(self, text, message, tmp_path):
        (tmp_path / "study.toml").write_text(text)
        with pytest.raises((UnknownName, BadInput), match=message):
            load_specs(tmp_path / "study.toml")
        with pytest.raises(BadInput, match="cannot read"):
            load_specs(tmp_path / "other.toml")

    @pytest.mark.parametrize("scale", [None, "s"])
    def test_defaults_that_are_no_table_are_named_at_every_scale(self, scale, tmp_path):
        (tmp_path / "study.toml").write_text("defaults = 3\n[[runs]]\ntask = 'lab/color'\n[scales.s]\nsteps = 1")
        with pytest.raises(BadInput, match="defaults and tasks hold tables"):
            load_specs(tmp_path / "study.toml", scale)


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
        with pytest.raises(BadInput, match=f"keeps weights of run {runs[0].name} .*, not a prompt, in .*weights; "):
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

    def test_a_fleet_that_goes_on_keeps_what_it_began_from(self, specs, tmp_path, monkeypatch):
        store, vectors = tmp_path / "store", tmp_path / "vectors.npy"
        np.save(vectors, np.ones((3, 16), dtype=np.float32))
        given = PromptSettings(init=f"file:{vectors}", options={"prompt_length": 3})
        spec, optimize = dataclasses.replace(specs[0], prompt=given), Loop._optimize

        def stopped(loop):
            if loop.step == 3:
                raise KeyboardInterrupt
            return optimize(loop)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_optimize", stopped)
            with pytest.raises((Interrupted, KeyboardInterrupt)):
                quietly([spec], store)
        np.save(vectors, np.zeros((3, 16), dtype=np.float32))
        quietly([spec], store)
        with pytest.raises(BadInput, match=r"vectors.npy is not what run"):
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


class Killed(BaseException):
    """Ends a process as nothing that it could handle."""


class TestKills:
    def test_a_killed_process_is_gone_on_with_to_the_same_bytes(self, specs, tmp_path):
        specs = [dataclasses.replace(s, settings=TrainSettings(steps=20, eval_every=2, batch_size=4)) for s in specs]
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        quietly(specs, whole)
        process = worker(specs, killed, dies=27)
        assert process.wait() == -signal.SIGKILL
        process.communicate()
        assert len(list((killed / "runs").glob("*.json"))) == 4
        assert len(list(killed.glob("fleets/*/run/checkpoints/step-*"))) > 0
        quietly(specs, killed)
        assert contents(whole) == contents(killed)
        assert list((killed / "fleets").iterdir()) == []

    @pytest.mark.parametrize("stored", [0, 1, 3, 4])
    def test_a_death_while_runs_are_stored_loses_and_repeats_nothing(self, stored, specs, tmp_path, monkeypatch):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        quietly(specs[:4], whole)
        write, count = store_module.write_file, itertools.count()

        def dying(target, content, *, what, replace=False):
            if target.parent.name == "runs" and next(count) == stored:
                raise Killed
            return write(target, content, what=what, replace=replace)

        def dead(*arguments):
            raise Killed

        monkeypatch.setattr(store_module, "write_file", dying)
        monkeypatch.setattr(run_module, "finish", dead)
        with pytest.raises(Killed):
            quietly(specs[:4], killed)
        assert len(list((killed / "runs").glob("*.json"))) == stored
        monkeypatch.undo()
        monkeypatch.setattr(Loop, "_optimize", lambda loop: pytest.fail("trained again"))
        quietly(specs[:4], killed)
        assert contents(whole) == contents(killed)
        assert list((killed / "fleets").iterdir()) == []

    def test_what_a_death_left_half_made_or_half_removed_is_cleared_away(self, specs, tmp_path):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        quietly(specs[:2], whole)
        found = claim(killed, group(specs[:2], 4))
        assert found.fleet is not None
        found.fleet.lease.lock.release()
        # Killed before the plan was written, while a folder was made, and while one was removed.
        (found.fleet.run).mkdir()
        (found.fleet.run / ".run.json.abcdef01.tmp").write_text("{")
        (killed / "fleets" / "made").mkdir()
        (killed / "fleets" / ".removed" / "run").mkdir(parents=True)
        quietly(specs[:2], killed)
        assert contents(whole) == contents(killed)
        assert list((killed / "fleets").iterdir()) == []

    def test_a_fleet_that_was_named_by_other_defaults_is_not_gone_on_with(self, specs, tmp_path, monkeypatch):
        plain = [dataclasses.replace(spec, prompt=dataclasses.replace(spec.prompt, lr=None)) for spec in specs[:1]]
        left = claim(tmp_path, group(plain, 4)).fleet
        assert left is not None
        left.lease.lock.release()
        monkeypatch.setitem(METHODS, "ept-star", dataclasses.replace(METHODS["ept-star"], lr=0.123))
        fresh = [dataclasses.replace(spec) for spec in plain]
        fleets._plan.cache_clear()
        found = claim(tmp_path, group(fresh, 4)).fleet
        assert found is not None
        assert found.folder != left.folder
        found.lease.lock.release()

    def test_an_interrupted_study_says_how_to_go_on_and_does(self, specs, tmp_path, monkeypatch):
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        quietly(specs, whole)
        optimize, steps = Loop._optimize, itertools.count(1)

        def interrupted(loop):
            if next(steps) == 7:
                os.kill(os.getpid(), signal.SIGINT)
            return optimize(loop)

        monkeypatch.setattr(Loop, "_optimize", interrupted)
        with pytest.raises(Interrupted, match=r"stopped with 4 of 8 runs stored in .*; the same command goes on"):
            quietly(specs, stopped)
        quietly(specs, stopped)
        assert next(steps) == 9, "of the second fleet's four steps one was left"
        assert contents(whole) == contents(stopped)


# A process that kills itself before an optimiser step: where it dies is then no matter of the machine's load.
DYING = """
import os, signal, sys
from softprompt.study import _workers
from softprompt.training._loop import Loop

optimize, left = Loop._optimize, iter(range(int(sys.argv[1])))

def dying(loop):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return optimize(loop)

Loop._optimize = dying
sys.exit(_workers.main())
"""


def worker(specs, store, *, dies: int | None = None, **options) -> "subprocess.Popen[bytes]":
    """A process that trains these runs; with `dies`, until it has made so many steps over all its fleets."""
    job = {"store": str(store), "specs": [spec.to_json() for spec in specs], "fleet_size": 4, "data_root": None}
    job |= {"device": "cpu", "keep": False, "wait": True, "lease_seconds": 120, **options}
    program = ["-m", "softprompt.study._workers"] if dies is None else ["-c", DYING, str(dies)]
    process = subprocess.Popen([sys.executable, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    process.stdin = None
    return process


class Forked(subprocess.Popen[bytes]):
    """A worker that is a copy of this process, so that nothing has to be imported again; with `dies` as in `worker`."""

    # Popen's own constructor is not called, and what it would clean up is not there.
    _child_created = False

    def __init__(self, job: Any, dies: int | None):
        self.stdout, self.returncode = io.BytesIO(), None
        self.pid = os.fork()
        if self.pid == 0:
            if dies is not None:
                optimize, left = Loop._optimize, iter(range(dies))
                Loop._optimize = lambda self: optimize(self) if next(left, None) is not None else kill_this_process()
            groups = group([RunSpec.from_json(spec) for spec in job["specs"]], job["fleet_size"])
            try:
                run_module.work(Path(job["store"]), groups, **{name: job[name] for name in workers.OPTIONS})
            finally:
                os._exit(0)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def kill_this_process() -> typing.NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class TestSeveralProcesses:
    def test_a_fleet_is_claimed_once_and_left_to_who_holds_it(self, specs, tmp_path):
        groups = group(specs, 4)
        first, second = claim(tmp_path, groups), claim(tmp_path, groups)
        third = claim(tmp_path, groups)
        assert first.fleet is not None
        assert second.fleet is not None
        assert [first.fleet.specs, second.fleet.specs] == groups
        assert second.busy == {spec.name for spec in specs[:4]}
        assert third.fleet is None
        assert third.busy == {spec.name for spec in specs}
        give_up(tmp_path, first.fleet)
        again = claim(tmp_path, groups)
        assert again.fleet is not None
        assert again.fleet.specs == groups[0]
        give_up(tmp_path, again.fleet)
        give_up(tmp_path, second.fleet)

    def test_another_study_leaves_the_runs_that_a_fleet_holds(self, specs, tmp_path):
        held = claim(tmp_path, group(specs[:2], 4)).fleet
        other = claim(tmp_path, group(specs[1:4], 4))
        assert held is not None
        assert other.fleet is not None
        assert other.fleet.specs == tuple(specs[2:4])
        assert other.busy == {specs[1].name}
        for fleet in (held, other.fleet):
            finish(tmp_path, fleet)
        assert list((tmp_path / "fleets").iterdir()) == []

    def test_four_processes_of_which_two_are_killed_train_forty_runs_once_each(
        self, task, model, tmp_path, monkeypatch
    ):
        axes = {"task": task, "model": model, "eval_every": 1, "batch_size": 4}
        specs = grid(**axes, steps=2, method=["ept-star", "prompt-tuning"], lr=[0.1, 0.3], seed=range(10))
        np.save(tmp_path / "wide.npy", np.ones((10, 3), dtype=np.float32))
        (bad,) = grid(**axes, steps=3, init=f"file:{tmp_path / 'wide.npy'}")
        serial, shared = tmp_path / "serial", tmp_path / "shared"
        quietly(specs, serial)
        started = []

        def two_die(job, environment):
            started.append(job)
            return Forked(job, {1: 1, 2: 0}.get(len(started)))

        monkeypatch.setattr(workers, "_start", two_die)
        with pytest.raises(RunsFailed, match=rf"1 of 41 runs failed, .*; the first: run {bad.name} \("):
            quietly([bad, *specs], shared, workers=4, keep=True)
        assert len(started) == 6, "who is killed is replaced"
        assert contents(serial) == contents(shared)
        records = list(shared.glob("fleets/*/run*/timing.jsonl"))
        assert len(records) == 10
        assert all([row["step"] for row in read_record(record)] == [1, 2] for record in records)

    def test_a_process_that_stands_still_loses_its_runs_and_cannot_store_them(self, specs, tmp_path, caplog):
        store, groups = tmp_path / "store", group(specs[:2], 4)
        stalled = claim(store, groups, lease_seconds=0.0).fleet
        assert stalled is not None
        models = run_module.Models(store, "cpu")
        os.utime(stalled.folder / "lease.json", (0, 0))
        taken = claim(store, groups).fleet
        assert taken is not None
        assert taken.run != stalled.run
        (theirs, ours) = (run_module._attempt(store, fleet, models, None) for fleet in (taken, stalled))
        assert theirs
        assert ours, "there is nothing left to do"
        assert "another process has taken over" in caplog.text
        assert contents(store).keys() == {path_of(store, spec.name).name for spec in specs[:2]}
        assert not list((store / "failed").glob("*"))

    def test_a_process_that_wakes_up_with_results_throws_them_away(self, specs, tmp_path, monkeypatch):
        store, groups, train = tmp_path / "store", group(specs[:1], 4), training.train

        def stalling(*arguments, **options):
            run = train(*arguments, **options)
            monkeypatch.undo()
            os.utime(next(store.glob("fleets/*/lease.json")), (0, 0))
            other = claim(store, groups).fleet
            assert other is not None
            assert list(read_record(other.run / "timing.jsonl")), "the work of before is copied"
            path_of(store, specs[0].name).parent.mkdir()
            path_of(store, specs[0].name).write_text("of the new owner")
            return run

        monkeypatch.setattr(training, "train", stalling)
        run_module.work(store, groups, data_root=None, device="cpu", keep=False, wait=False)
        assert path_of(store, specs[0].name).read_text() == "of the new owner"

    def test_another_machine_waits_for_the_end_of_a_lease(self, specs, tmp_path, monkeypatch):
        groups = group(specs[:1], 4)
        first = claim(tmp_path, groups).fleet
        assert first is not None
        monkeypatch.setattr(lease_module, "machine", lambda: "elsewhere")
        first.lease.lock.release()
        assert claim(tmp_path, groups).fleet is None, "a lock that seems free may be one that does not reach"
        os.utime(first.folder / "lease.json", (0, 0))
        second = claim(tmp_path, groups).fleet
        assert second is not None
        give_up(tmp_path, second)
        give_up(tmp_path, first)

    def test_a_fleet_that_kills_its_processes_is_given_up_after_three(self, specs, tmp_path):
        store, groups = tmp_path / "store", group(specs[:1], 4)
        for _ in range(3):
            fleet = claim(store, groups).fleet
            assert fleet is not None
            fleet.lease.lock.release()
        with pytest.raises(RunsFailed, match="3 processes in a row died"):
            quietly(specs[:1], store)


SCORES = {"a": (0.9, 0.5, 0.7, 0.8, None), "b": (0.6, 0.65, 0.55, 0.8, 0.4)}


def stored(
    method: str,
    seed: int,
    score: float | None,
    task="glue/rte",
    norm: float | None = None,
    majority: float | None = 0.5,
):
    spec = RunSpec(
        task=task, model="m", prompt=PromptSettings(method=method, seeds=Seeds.all(seed)), tags={"part": "x"}
    )
    metrics = {} if score is None else {"test": {"score": score}, "validation": {"score": score}}
    curve = {"step": [1, 2, 3], "token_norms": [99.0, norm, 99.0]} if norm is not None else {}
    return StoredRun(
        name=spec.name, spec=spec, metrics=metrics, majority=majority, best_step=2, trainable=1, head=0, stored=1,
        seconds=1.0, status="finished" if score is not None else "dropped at step 1: nan", curve=curve,
    )  # fmt: skip


@pytest.fixture
def runs():
    arms = {"ept": SCORES["a"], "residual": SCORES["b"]}
    return [stored(m, i, score, norm=float(i + 1)) for m, scores in arms.items() for i, score in enumerate(scores)]


class TestTables:
    def test_numbers_of_a_group_equal_numpy(self, runs):
        ept, residual = summary(runs, by=("method",))
        scores = np.array(SCORES["b"])
        assert residual["n"] == 5
        assert residual["mean"] == pytest.approx(scores.mean())
        assert residual["std"] == pytest.approx(scores.std(ddof=1))
        assert residual["se"] == pytest.approx(stats.sem(scores))
        assert (residual["min"], residual["median"]) == (0.4, 0.6)
        assert residual["worst"] == residual["mean"]
        assert (ept["n"], ept["dropped"], ept["min"]) == (5, 1, 0.5)
        assert ept["mean"] == pytest.approx(np.mean([0.9, 0.5, 0.7, 0.8]))
        # Half of the way from 0.5 to 0.9 is 0.7, and not to have a score is to be stuck.
        assert (ept["stuck"], residual["stuck"]) == (2 / 5, 4 / 5)
        norms = np.arange(1.0, 6.0)
        levels = [residual[name] for name in ("token_norms_p10", "token_norms", "token_norms_p90")]
        assert levels == pytest.approx(np.quantile(norms, [0.1, 0.5, 0.9]))

    def test_worst_is_the_lowest_mean_of_a_task(self):
        runs = [stored("ept", i, s, task=t) for t, scores in (("glue/rte", (0.9, 0.3)), ("glue/sst2", (0.5, 0.6)))
                for i, s in enumerate(scores)]  # fmt: skip
        (row,) = summary(runs, by=("method",))
        assert row["worst"] == pytest.approx(0.55)
        assert row["min"] == 0.3

    def test_the_ceiling_is_the_best_run_of_the_task_unless_given(self, runs):
        assert ceilings([*runs, stored("ept", 0, 0.6, "glue/sst2")]) == {"glue/rte": 0.9, "glue/sst2": 0.6}
        assert [row["stuck"] for row in summary(runs, by=("method",), ceiling={"glue/rte": 0.58})] == [2 / 5, 1 / 5]

    def test_stuck_is_less_than_half_of_the_way(self):
        assert not is_stuck(0.75, 0.5, 1.0)
        assert is_stuck(0.7499, 0.5, 1.0)
        assert is_stuck(0.5, 0.5, 0.5)
        assert is_stuck(0.4, 0.5, 0.45)

    def test_without_a_majority_stuck_is_unknown_for_labels_and_from_zero_for_others(self):
        unknown = stored("ept", 0, 0.4, majority=None)
        assert stuck(unknown, {"glue/rte": 0.9}) is None
        assert summary([unknown])[0]["stuck"] is None
        assert stuck(stored("ept", 0, 0.4, "glue/stsb", majority=None), {"glue/stsb": 0.9})
        assert not stuck(stored("ept", 0, 0.5, "glue/stsb", majority=None), {"glue/stsb": 0.9})

    def test_one_run_has_no_deviation_and_no_interval(self):
        (row,) = summary([stored("ept", 0, 0.6)])
        assert row["mean"] == row["min"] == row["median"] == 0.6
        assert row["std"] is row["se"] is row["low"] is row["high"] is row["token_norms"] is None

    def test_the_interval_is_the_percentile_bootstrap_and_seeded(self):
        values = np.random.default_rng(1).normal(size=30)
        ours = bootstrap(values, seed=3)
        theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=0).confidence_interval
        assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)
        assert ours == bootstrap(values, seed=3) != bootstrap(values, seed=4)
        narrow = bootstrap(values, confidence=0.5)
        assert ours is not None
        assert narrow is not None
        assert ours[0] < narrow[0] < narrow[1] < ours[1]
        assert bootstrap([1.0]) is None

    def test_the_bootstrap_of_pairs_keeps_them_together(self):
        first = np.random.default_rng(1).normal(size=12)
        interval = bootstrap(np.stack([2 * first, first], axis=1), ratio_of_deviations)
        assert interval == pytest.approx((2, 2))

    def test_paired_differences_equal_numpy_and_scipy(self, runs):
        (row,) = compare(runs, "method", "residual")
        differences = np.array(SCORES["a"][:4], dtype=float) - SCORES["b"][:4]
        assert (row["method"], row["against"], row["n"], row["unpaired"]) == ("ept", "residual", 4, 2)
        assert row["difference"] == pytest.approx(differences.mean())
        assert (row["wins"], row["ties"], row["losses"]) == (2, 1, 1)
        assert (row["low"], row["high"]) == pytest.approx(bootstrap(differences))
        with_ties = differences[differences != 0]
        assert row["p"] == pytest.approx(stats.wilcoxon(with_ties)[1])

    def test_wilcoxon_of_equal_arms_is_one(self):
        assert wilcoxon([0.0, 0.0]) == 1.0
        assert wilcoxon([]) is None
        differences = np.random.default_rng(0).normal(0.5, size=20)
        assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences)[1])

    def test_differences_of_as_many_rows_tie(self):
        right = np.array([73, 79, 61, 70, 69, 75, 84, 71])
        more = np.array([2, -1, 2, -2, -2, -2, 2, 4])
        assert wilcoxon((right + more) / 100 - right / 100) == pytest.approx(stats.wilcoxon(more)[1])
        assert settled([0.3 - 0.1 - 0.2])[0] == 0

    def test_pairs_that_are_not_defined_are_refused(self, runs):
        with pytest.raises(BadInput, match="agree in method, task, seed; pair by more keys"):
            compare([*runs, dataclasses.replace(runs[0], name="x")], "method", "ept")
        with pytest.raises(UnknownName, match=r"unknown method 'residul'\. Did you mean 'residual'"):
            compare(runs, "method", "residul")

    def test_a_run_that_two_tables_list_counts_once_in_the_groups_of_both_and_once_in_a_total(self):
        def run(part: str, method: str, seed: int, score: float) -> StoredRun:
            plain = stored(method, seed, score)
            return dataclasses.replace(plain, spec=dataclasses.replace(plain.spec, tags={"part": part}))

        runs = [run(part, method, seed, 0.5 + seed / 10 + (method == "ept") / 5)
                for part in ("core", "extra") for method in ("ept", "residual") for seed in (0, 1)]  # fmt: skip
        runs.append(run("extra", "residual", 2, 0.9))
        rows = summary(runs, by=["part", "method"])
        assert [(row["part"], row["method"], row["n"]) for row in rows] == [
            ("core", "ept", 2), ("core", "residual", 2), ("extra", "ept", 2), ("extra", "residual", 3)
        ]  # fmt: skip
        assert [row["n"] for row in summary(runs, by=["method"])] == [2, 3]
        for pair in (("task", "seed"), ("task", "seed", "part")):
            (row,) = compare(runs, "method", "residual", pair=pair)
            assert (row["n"], row["wins"], row["unpaired"]) == (2, 2, 1)
            assert row["difference"] == pytest.approx(0.2)

    def test_no_tag_may_take_the_place_of_a_column(self, runs, tmp_path):
        rows = [*summary(runs), *compare(runs, "method", "ept")]
        for run in runs:
            store_module.write_file(path_of(tmp_path, run.name), to_bytes(run), what="a run")
        rows += rows_of(tmp_path, [run.spec for run in runs])
        names = {name for row in rows for name in (*row, *columns([row])[0])}
        assert {"token norms", "95 %", "test score", "state", "p", "unpaired"} < names
        assert all(map(is_column, names))
        study = "[[runs]]\ntask = 'glue/rte'\nmodel = 'm'\n"
        for tag in ("mean", "method", "lr", "test score"):
            (tmp_path / "study.toml").write_text(f"{study}tags = {{'{tag}' = 1}}\n")
            with pytest.raises(BadInput, match=f"a tag is called {tag!r}, like a column or a key of tables; give it"):
                load_specs(tmp_path / "study.toml")
        (tmp_path / "study.toml").write_text(f"{study}tags = {{part = 1}}\n")
        assert load_specs(tmp_path / "study.toml")[0].tags == {"part": 1}

    def test_keys_reach_every_part_of_a_run(self):
        spec = grid(task="glue/rte", model="m", method="ept", options={"hidden": 3}, lr=0.2, draw_seed=4, steps=9,
                    tags={"part": "core"}, backbone={"s": 30})[0]  # fmt: skip
        keys = ("task", "model", "method", "options", "options.hidden", "lr", "seed", "draw_seed", "steps", "part",
                "backbone.s", "dtype")  # fmt: skip
        assert [value(spec, key) for key in keys] == [
            "glue/rte", "m", "ept", "hidden=3", 3, 0.2, 0, 4, 9, "core", 30, "float32"
        ]  # fmt: skip
        with pytest.raises(UnknownName, match="'method'"):
            value(spec, "methd")

    def test_a_tag_that_only_some_runs_have_is_a_row_and_a_side_of_a_comparison_of_its_own(self):
        tagged, plain = stored("ept", 0, 0.9), stored("residual", 0, 0.5)
        plain = dataclasses.replace(plain, spec=dataclasses.replace(plain.spec, tags={}))
        rows = summary([tagged, plain], by=varying([tagged.spec, plain.spec]))
        assert [(row["part"], row["method"]) for row in rows] == [("x", "ept"), (None, "residual")]
        assert compare([tagged, plain], "part", None)[0]["part"] == "x"
        assert "| x | ept |" in markdown(rows)
        assert "|  | residual |" in markdown(rows)
        with pytest.raises(UnknownName, match="'part'"):
            summary([tagged, plain], by=["prt"])

    def test_what_varies_is_found_without_the_seeds(self):
        axes = {"task": "glue/rte", "model": ["m", "n"], "seed": [0, 1]}
        specs = [*grid(**axes, lr=[0.1, 0.2], tags={"part": 1}), *grid(**axes, lr=0.1, steps=3)]
        assert varying(specs) == ("model", "part", "lr", "steps")

    def test_tables_show_every_row_and_leave_out_what_is_unknown(self, runs):
        shown = markdown(summary(runs, by=("method",))).splitlines()
        assert (
            shown[0] == "| method | n | dropped | mean | std | se | 95 % | min | median | worst | stuck | token norms |"
        )
        assert shown[1].startswith("| --- | --: |")
        assert shown[3].startswith("| residual | 5 | 0 | 0.600 | 0.146 | 0.065 | ")
        assert shown[3].endswith("| 0.400 | 0.600 | 0.600 | 0.800 | 3 (1.4 .. 4.6) |")
        plain = markdown(summary([stored("ept", 0, 0.6, majority=None)])).splitlines()[0]
        assert plain == "| task | method | n | mean | min | median | worst |"
        assert markdown([]) == "|  |\n|  |"

    def test_tables_and_the_names_of_runs_need_no_torch(self):
        code = (
            "import sys; from softprompt.study import grid; from softprompt.study.tables import bootstrap as b; "
            "from softprompt.prompts.methods import METHODS; b([1., 2.]); "
            "specs = grid(task='lab/color', model='lab-t5', method=list(METHODS), sources=[('a', 'b')]); "
            "[spec.name for spec in specs]; print('torch' in sys.modules)"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "False"


class TestCurves:
    def test_a_short_run_is_kept_whole(self):
        rows = [{"step": i, "loss": i / 7, "lr": 1.0, "prompt_norm": 2.0 * i} for i in (1, 2, 3)]
        rows.insert(2, {"step": 2, "split": "validation", "score": 0.5, "accuracy": 0.5})
        curve, validation = curves([*rows, {"step": 4, "dropped": "nan"}])
        assert curve == {"step": [1, 2, 3], "loss": [0.142857, 0.285714, 0.428571], "prompt_norm": [2.0, 4.0, 6.0]}
        assert validation == {"step": [2], "score": [0.5]}

    def test_of_a_long_run_losses_are_averaged_and_the_rest_is_sampled(self):
        n = 2 * POINTS + 1
        curve, _ = curves({"step": i, "loss": float(i), "prompt_norm": float(i)} for i in range(1, n + 1))
        assert len(curve["step"]) <= POINTS
        assert curve["step"][:3] == [3, 6, 9]
        assert curve["step"][-1] == n
        assert curve["loss"][:2] == [2.0, 5.0]
        assert curve["prompt_norm"][:2] == [3.0, 6.0]

    def test_a_run_comes_back_from_its_bytes_with_nan_as_none(self, tmp_path):
        run = stored("ept", 0, 0.5, norm=1.5)
        run = dataclasses.replace(run, metrics={"test": {"score": float("nan")}}, warnings=("a", "b"), fleet=("x",))
        path_of(tmp_path, run.name).parent.mkdir()
        path_of(tmp_path, run.name).write_bytes(to_bytes(run))
        assert load(tmp_path, run.name) == dataclasses.replace(run, metrics={"test": {"score": None}})

    @pytest.mark.parametrize("curve", [
        {}, {"step": [], "token_norms": []}, {"step": [1, 5, 9], "token_norms": [1.5, None, 3.0], "loss": [1, 2, 3]},
        {"step": [5], "loss": [0.5]},
    ])  # fmt: skip
    @pytest.mark.parametrize("best_step", [0, 3, 5, 20])
    def test_what_tables_read_of_a_run_is_what_was_stored(self, curve, best_step, tmp_path):
        # The name of the tag is one of the marks at which the text of the spec is cut out.
        spec = grid(task="glue/rte", model="m", tags={"shape": {}, "status": "odd"})[0]
        run = dataclasses.replace(stored("ept", 0, 0.5), name=spec.name, spec=spec, curve=curve, best_step=best_step)
        path_of(tmp_path, run.name).parent.mkdir()
        path_of(tmp_path, run.name).write_bytes(to_bytes(run))
        for known in (None, spec):
            light = load(tmp_path, run.name, whole=False, spec=known)
            assert light
            assert dataclasses.replace(light, curve={}) == dataclasses.replace(run, curve={})
            assert light.at_best("token_norms") == run.at_best("token_norms")

    def test_a_table_has_the_tags_of_today(self, tmp_path):
        was, now = (grid(task="glue/rte", model="m", tags={"part": part})[0] for part in ("was", "now"))
        run = dataclasses.replace(stored("ept", 0, 0.5), name=was.name, spec=was)
        path_of(tmp_path, run.name).parent.mkdir()
        path_of(tmp_path, run.name).write_bytes(to_bytes(run))
        assert [run.spec.tags["part"] for run in read(tmp_path, [now], whole=False) if run] == ["now"]
        assert [run.spec.tags["part"] for run in read(tmp_path, [now]) if run] == ["was"]

    def test_a_quantity_at_the_best_checkpoint(self):
        assert stored("ept", 0, 0.5, norm=1.5).at_best("token_norms") == 1.5
        assert stored("ept", 0, 0.5).at_best("token_norms") is None
        other = dataclasses.replace(stored("ept", 0, 0.5, norm=1.5), best_step=0)
        assert other.at_best("token_norms") is other.at_best("prompt_norm") is None


class TestPlan:
    def test_steps_follow_from_the_epochs_and_rows_of_each_run(self):
        measured = Measured(steps=12, rows=96, tokens=1200, seconds=6.0)

        def steps(**settings):
            return measured.steps_of(TrainSettings(batch_size=8, **settings), classes=2)

        assert [steps(epochs=1.0), steps(epochs=10.0), steps(steps=7), steps()] == [12, 120, 7, 1000]
        assert [steps(epochs=1.0, shots=16), steps(epochs=1.0, shots_per_class=16)] == [2, 4]

    def test_a_fleet_of_another_number_of_epochs_costs_in_proportion(self, task, model, tmp_path):
        axes = {"task": task, "model": model, "batch_size": 8}
        one, ten, both = (
            plan(tmp_path / "store", grid(**axes, epochs=epochs), fleet_size=1)[0]
            for epochs in ([1.0], [10.0], [1.0, 10.0])
        )
        assert (one.steps, ten.steps, both.steps) == (6, 60, 66)
        assert both.tokens == (one.tokens or 0) + (ten.tokens or 0)

    def test_costs_are_those_of_each_method_whatever_the_order_of_the_tables(self, task, model, tmp_path, monkeypatch):
        asked = []

        def measured(fleet, models, data_root):
            prompt = fleet[0].prompt
            asked.append(prompt.method)
            seconds = {"prompt-tuning": 1.0, "ept-star": 10.0}[prompt.method] * (3 if prompt.deep else 1)
            return Measured(steps=4, rows=8, tokens=4, seconds=seconds * len(fleet))

        monkeypatch.setattr("softprompt.study._plan._measured", measured)
        axes = {"task": task, "model": model, "lr": [0.1, 0.3], "seed": [0, 1, 2], **QUICK}
        tables = [grid(**axes, method="prompt-tuning", deep=deep) for deep in (False, True)]
        tables.append(grid(**axes, method="ept-star"))
        for order in itertools.permutations(tables):
            (part,) = plan(tmp_path / "store", list(itertools.chain(*order)), fleet_size=6)
            assert part.seconds == pytest.approx(6 * 1 + 6 * 3 + 6 * 10)
        # Seeds and rates share a measurement.
        assert len(asked) == 6 * 3

    @pytest.mark.parametrize(
        ("seconds", "timed", "steps"), [([4, 1, 2, 3], 2.0, 4), ([20], 20.0, 1), ([1, 8, 8], 8.0, 3)]
    )
    def test_long_steps_are_timed_less_often_and_the_first_only_where_it_is_long(
        self, seconds, timed, steps, monkeypatch
    ):
        clock, took = [0.0], iter(seconds)

        class Timed:
            def _optimize(self):
                clock[0] += next(took)

        monkeypatch.setattr("softprompt.training._loop.time.perf_counter", lambda: clock[0])
        loop: Any = Timed()
        assert Loop.seconds_of_step(loop, 3, 10.0) == timed
        assert loop.step == steps


class TestCommand:
    @pytest.fixture
    def file(self, tmp_path, model, task):
        path = tmp_path / "study.toml"
        path.write_text(
            f"""
            [defaults]
            model = "{model}"
            steps = 4
            eval_every = 2
            batch_size = 4
            [tasks.reviews]
            files = {{train = "data/train.csv", validation = "data/validation.csv", test = "data/test.csv"}}
            text_columns = ["text"]
            label_column = "label"
            [[runs]]
            task = "reviews"
            method = ["ept-star", "prompt-tuning"]
            seed = [0, 1]
            """
        )
        return path

    def test_a_study_file_is_run_and_its_table_printed(self, file, tmp_path, capsys):
        store = str(tmp_path / "store")
        assert main(["study", "table", str(file), "--store", store]) == 2
        assert "holds none of the 4 runs" in capsys.readouterr().err
        assert main(["study", "run", str(file), "--store", store, "--device", "cpu", "--quiet"]) == 0
        assert capsys.readouterr().out == f"{store}\n"
        runs = [run for run in read(store, load_specs(file)) if run]
        assert main(["study", "table", str(file), "--store", store]) == 0
        assert capsys.readouterr().out == markdown(summary(runs, by=("method",))) + "\n"
        for words in (["--against", "method=ept-star", "--by", "lr"], ["--pair", "seed"]):
            assert main(["study", "table", str(file), "--store", store, *words]) == 2
            assert "--against" in capsys.readouterr().err
        assert main(["study", "table", str(file), "--store", store, "--against", "method=ept-star", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == compare(runs, "method", "ept-star")[0]
        assert main(["study", "compare", str(file), "method=ept-star", "--store", store, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == compare(runs, "method", "ept-star")[0]
        path_of(Path(store), runs[0].name).unlink()
        assert main(["study", "table", str(file), "--store", store, "--by", "seed", "--markdown"]) == 0
        found = capsys.readouterr()
        assert found.err == "softprompt: 1 of 4 runs are missing; the table is of the others\n"
        assert found.out == markdown(summary(runs[1:], by=("seed",))) + "\n"

    def test_a_plan_counts_what_is_left_and_measures_what_it_costs(self, file, tmp_path, capsys):
        place = [str(file), "--store", str(tmp_path / "store")]
        assert main(["study", "plan", *place, "--no-measure", "--json"]) == 0
        (plain,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert plain["fleets"] == 1
        assert (plain["runs"], plain["stored"], plain["steps"], plain["tokens"]) == (4, 0, 4, None)
        mark_failed(tmp_path / "store", load_specs(file)[0], ValueError())
        assert main(["study", "plan", *place, "--device", "cpu", "--json"]) == 0
        (measured,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert (measured["failed"], measured["fleets"], measured["steps"]) == (1, 1, 4)
        # Three prompts, four steps, four rows; a row has its words, at most 12, an end and ten vectors.
        assert 3 * 4 * 4 * 10 < measured["tokens"] < 3 * 4 * 4 * (10 + 40)
        assert measured["seconds"] > 0
        assert not list((tmp_path / "store").glob("runs/*"))

    def test_status_best_and_export_say_what_is_stored_failed_and_left(self, file, tmp_path, capsys, monkeypatch):
        store, specs = tmp_path / "store", load_specs(file)
        scores = (0.5, 0.9)
        for spec, score in zip(specs, scores, strict=False):
            values = {"trainable": 1, "head": 0, "stored": 1, "seconds": 1.0, "status": "finished", "majority": 0.5}
            metrics = {"validation": {"score": score}, "test": {"score": score - 0.1}}
            run = StoredRun(name=spec.name, spec=spec, metrics=metrics, best_step=2, **values)
            store_module.write_file(path_of(store, spec.name), to_bytes(run), what="a run")
        mark_failed(store, specs[2], ValueError("50 % < all & more"))
        held = claim(store, [(specs[3],)]).fleet
        assert held is not None
        place = [str(file), "--store", str(store)]
        assert main(["study", "status", *place]) == 0
        said = capsys.readouterr().out
        assert said.startswith("2 of 4 runs stored, 1 in training, 0 left, 1 failed")
        assert "to go" not in said
        assert f"(process {os.getpid()}): 1 runs, step 0" in said
        assert f"failed {specs[2].name}: ValueError: 50 % < all & more" in said
        assert main(["study", "status", *place, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["running"] == 1
        before = path_of(store, specs[0].name).stat()
        os.utime(path_of(store, specs[0].name), (before.st_atime, before.st_mtime - 50))
        assert main(["study", "status", *place]) == 0
        assert "about 50 s to go" in capsys.readouterr().out
        give_up(store, held)
        assert main(["study", "table", *place]) == 0
        assert f"failed, so in no row: {specs[2].name}: ValueError" in capsys.readouterr().err
        assert main(["study", "best", *place, "-n", "1", "--json"]) == 0
        (row,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert (row["run"], row["validation score"], row["test score"]) == (specs[1].name, 0.9, 0.8)
        for end in ("csv", "parquet", "json", "md", "tex"):
            assert main(["study", "export", *place, str(tmp_path / f"runs.{end}")]) == 0
        frames = [pandas.read_csv(tmp_path / "runs.csv"), pandas.read_parquet(tmp_path / "runs.parquet")]
        frames.append(pandas.read_json(tmp_path / "runs.json"))
        for frame in frames:
            rows = frame.to_dict("records")
            assert [row["run"] for row in rows] == [spec.name for spec in specs]
            states = ["finished", "finished", "failed: ValueError: 50 % < all & more", "missing"]
            assert [row["state"] for row in rows] == states
            assert rows[1]["test score"] == pytest.approx(0.8)
        assert r"50 \% < all \& more" in (tmp_path / "runs.tex").read_text()
        assert (tmp_path / "runs.md").read_text().count("\n") == 6
        capsys.readouterr()
        assert main(["study", "export", *place, str(tmp_path / "runs.xlsx")]) == 2
        assert "ends in none of .csv" in capsys.readouterr().err

    def test_runs_of_two_tables_are_in_the_rows_of_both_and_the_best_of_tasks_with_other_metrics_in_one_table(
        self, file, tmp_path, capsys
    ):
        store = tmp_path / "store"
        table = file.read_text().partition("[[runs]]")[2]
        file.write_text(
            f"{file.read_text()}\ntags = {{part = 'core'}}\n[[runs]]{table}\ntags = {{part = 'extra'}}\n"
            "[[runs]]\ntask = 'glue/stsb'\ntags = {part = 'extra'}\n"
        )
        for score, spec in enumerate({spec.name: spec for spec in load_specs(file)}.values()):
            of_task = {"pearson": 0.5} if spec.declared.name == "glue/stsb" else {"accuracy": 0.5, "f1": 0.5}
            metrics = {split: {"score": score / 10, **of_task} for split in ("validation", "test")}
            run = dataclasses.replace(stored("ept", 0, 0.5), name=spec.name, spec=spec, metrics=metrics)
            store_module.write_file(path_of(store, spec.name), to_bytes(run), what="a run")
        place = [str(file), "--store", str(store)]
        assert main(["study", "table", *place, "--by", "part", "--json"]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        rows = map(json.loads, printed.out.splitlines())
        assert [(row["part"], row["n"]) for row in rows] == [("core", 4), ("extra", 5)]
        assert main(["study", "export", *place, str(tmp_path / "runs.csv")]) == 0
        assert pandas.read_csv(tmp_path / "runs.csv")["part"].tolist() == ["core"] * 4 + ["extra"] * 5
        capsys.readouterr()
        assert main(["study", "best", *place]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert {"validation f1", "test pearson"} <= set(re.split("  +", lines[0].strip()))
        assert len(lines) == 6

    def test_latex_has_three_digits_of_scores_and_all_of_settings(self, tmp_path):
        first = {"run": "a", "lr": 1e-4, "k": 16, "trainable": 1234567, "test score": 2 / 3, "token norms": 2.25}
        rows = [first, {**dict.fromkeys(first), "run": "b", "lr": 0.3, "test score": 1.0}]
        lines = export(rows, tmp_path / "runs.tex").read_text().splitlines()
        assert [line for line in lines if line.startswith(("a &", "b &"))] == [
            r"a & 0.0001 & 16 & 1234567 & 0.667 & 2.25 \\", r"b & 0.3 &  &  & 1.000 &  \\"
        ]  # fmt: skip

    def test_mistakes_are_one_line_and_exit_code_2(self, file, tmp_path, capsys):
        store = str(tmp_path / "store")
        file.write_text(file.read_text().replace("steps = 4", "stepz = 4"))
        assert main(["study", "run", str(file), "--store", store]) == 2
        assert capsys.readouterr().err == "softprompt: unknown setting of a run 'stepz'. Did you mean 'steps'?\n"
        assert not Path(store).exists()

    def test_progress_says_what_is_done_running_and_left(self, file, specs, tmp_path, capsys):
        groups = group(specs, 4)
        held, ours = claim(tmp_path, groups), claim(tmp_path, groups)
        assert state(ours, 8) == f"4 running (prompt-tuning, reviews, {specs[0].model}), 4 in other processes, 0 left"
        assert state(held, 8).endswith("4 left")
        for found in (held, ours):
            assert found.fleet is not None
            finish(tmp_path, found.fleet)
        assert main(["study", "run", str(file), "--store", str(tmp_path / "store"), "--device", "cpu"]) == 0
        assert "4/4" in capsys.readouterr().err
