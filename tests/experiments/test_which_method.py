"""The confirmation study: how rates are chosen, what is kept, what the tables say, and a study that is stopped."""

import dataclasses
import itertools
import json
import math
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments.common.page import END, write_page
from experiments.common.rates import best_rate, neighbour
from experiments.which_method import (
    CANDIDATES,
    DESIGN,
    QUICK,
    Design,
    Frozen,
    Part,
    Place,
    Results,
    confirm,
    default_method,
    key_of,
    of_key,
    paired,
    read_results,
    tables,
    text,
)
from experiments.which_method import design as _design
from experiments.which_method import runs as runs_module
from experiments.which_method.__main__ import main
from experiments.which_method.rates import next_rates, whole, worth
from experiments.which_method.results import FILE, change_results
from experiments.which_method.runs import RunRequest, _kept, _spec
from experiments.which_method.study import blocks
from experiments.which_method.tables import BEGIN
from softprompt.backbones import load_backbone
from softprompt.data import load_rows, split_rows, stream
from softprompt.errors import BadInput, DamagedFile, UnknownName
from softprompt.inference.rows import examples_for
from softprompt.prompts.methods import METHODS
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, run_all
from softprompt.study.statistics import bootstrap
from softprompt.tasks import TASKS, with_difficulty
from softprompt.training import Interrupted
from softprompt.training._loop import Loop

from experiments import which_method as confirmation
from kit import review_task
from tiny import ALL

ROOT = Path(__file__).parents[2]
TASK = "lab/opinion"
# Two methods and the ceiling, a moment each.
SMALL = Design(
    models={"lab-t5-small": Frozen(scale=32.0, tasks=(TASK,), steps=2)},
    parts={
        "core": Part(
            models=("lab-t5-small",),
            tasks=(TASK,),
            candidates=("prompt-tuning", "scaled", "default", "full"),
            seeds=(2000, 2001),
            steps=3,
        )
    },
    tried=3,
)
# What the command's short form runs here: QUICK itself with `make test-all` and `make experiments-quick`.
SHORT = dataclasses.replace(
    QUICK,
    parts={
        "core": dataclasses.replace(QUICK.parts["core"], tasks=(TASK,), candidates=("prompt-tuning", "scaled"), steps=2)
    },
)


def run(score: float | None = 0.5, **other):
    values = {"score": score, "validation": None, "train": None, "loss": 0.1, "norm": None, "steps": 3, "majority": 0.5}
    return {**values, "lr": 0.1, "seconds": 1.0, "status": "finished", **other}


def trials(scores: dict[float, float], loss: float = 1.0):
    return {repr(rate): {TASK: {"900": [score, loss]}} for rate, score in scores.items()}


class TestRates:
    def test_neighbours_are_one_and_three_in_every_power_of_ten(self):
        row = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
        assert [neighbour(rate, 1) for rate in row[:-1]] == row[1:]
        assert [neighbour(rate, -1) for rate in row[1:]] == row[:-1]
        assert [neighbour(0.1, step) for step in range(-3, 6)] == row

    def test_every_first_grid_has_three_neighbours(self):
        for frozen, one in itertools.product(DESIGN.models.values(), CANDIDATES):
            first = frozen.first_rates(one)
            assert [neighbour(first[0], step) for step in range(len(first))] == list(first)
            assert len(first) == (1 if one == "default" else 3)

    def test_the_default_is_what_users_have_who_say_nothing_and_its_rate_is_not_searched_for(self):
        mine, shipped = CANDIDATES["default"], METHODS[PromptSettings().method].resolved(PromptSettings())
        assert (mine.method, mine.prompt["units"], *mine.rates) == (shipped.method, shipped.units, shipped.lr)
        assert [Frozen(scale=32.0).most_rates(one, 8) for one in ("default", "scaled")] == [1, 8]

    @pytest.mark.parametrize("peak", [0.003, 0.03, 0.3, 3.0, 30.0])
    def test_the_grid_grows_until_the_best_is_inside(self, peak):
        tried: dict[float, float] = {}
        while left := next_rates(trials(tried), (0.1, 0.3, 1.0), 9):
            tried |= {rate: -abs(math.log(rate / peak)) for rate in left}
        assert best_rate(worth(trials(tried))) == peak
        assert min(tried) < peak < max(tried)
        # Nothing beyond what was asked for.
        assert max(tried) == max(1.0, neighbour(peak, 1))
        assert min(tried) == min(0.1, neighbour(peak, -1))

    def test_the_grid_ends_at_its_limit(self):
        tried: dict[float, float] = {}
        while left := next_rates(trials(tried), (0.1, 0.3, 1.0), 5):
            tried |= {rate: rate for rate in left}
        assert sorted(tried) == [0.1, 0.3, 1.0, 3.0, 10.0]

    def test_a_rate_counts_when_every_task_and_seed_was_tried(self):
        frozen = Frozen(scale=1.0, tasks=("a", "b"), seeds=(1, 2))
        both = {"1": [0.5, 0.0], "2": [0.5, 0.0]}
        found = {"0.1": {"a": both, "b": both}, "0.3": {"a": both}, "1.0": {"a": both, "b": {"1": [0.5, 0.0]}}}
        assert list(whole(found, frozen)) == ["0.1"]

    def test_among_equals_the_lower_loss_is_chosen_and_no_score_is_none_at_all(self):
        found = trials({0.1: 0.9}, 0.5) | trials({0.3: 0.9}, 0.2) | trials({1.0: 0.9}, 0.3)
        assert best_rate(worth(found)) == 0.3
        assert best_rate(worth(found | {"0.3": {TASK: {"900": [None, None]}}})) == 1.0

    def test_rates_are_means_over_tasks_and_seeds(self):
        found = {"0.1": {"a": {"1": [1.0, 0.0]}, "b": {"1": [0.0, 0.0]}}, "0.3": {"a": {"1": [0.6, 0.0]}}}
        assert best_rate(worth(found)) == 0.3


class TestRunsOfTheDesign:
    def test_every_run_can_be_named(self):
        for part in DESIGN.parts.values():
            for model, task, one in itertools.product(part.models, part.tasks, part.candidates):
                wanted = RunRequest(task=task, candidate=one, rate=0.1, seed=1)
                assert _spec(model, DESIGN.models[model], part, wanted, False).name

    @pytest.mark.parametrize("model", ["lab-t5", "lab-t5-small", "lab-bert", "lab-gpt"])
    @pytest.mark.parametrize("one", ["ept-star", "ept-star@s=1", "full"])
    def test_word_embeddings_have_the_scale_that_the_method_names(self, model, one):
        part = Part(models=(model,), tasks=(TASK,), candidates=(one,), seeds=(1,))
        spec = _spec(model, DESIGN.models[model], part, RunRequest(task=TASK, candidate=one, rate=0.1, seed=1), False)
        table = load_backbone(model, **spec.backbone).word_vectors
        rms = table.detach().pow(2).mean().sqrt().item()
        assert 0.8 < rms / CANDIDATES[one].scale < 1.0

    def test_rates_are_chosen_on_other_seeds_and_rows_than_are_reported(self):
        for part in DESIGN.parts.values():
            for model in part.models:
                assert not {*DESIGN.models[model].seeds} & {*part.seeds}
        part, wanted = DESIGN.parts["core"], RunRequest(task=TASK, candidate="scaled", rate=1.0, seed=1)
        trial, reported = (
            _spec("lab-t5-small", DESIGN.models["lab-t5-small"], part, wanted, trial) for trial in (True, False)
        )
        assert trial.declared.source.options["test"] < 20 < reported.declared.source.options["test"]

    def test_a_head_alone_chooses_its_own_rate_and_every_prompt_has_it(self):
        part, frozen = DESIGN.parts["real"], DESIGN.models["minilm"]
        alone = _spec("m", frozen, part, RunRequest(task="glue/sst2", candidate="head-only", rate=0.03, seed=1), False)
        beside = RunRequest(task="glue/sst2", candidate="ept", rate=0.3, seed=1, head_rate=0.03)
        assert alone.prompt.head_lr == _spec("m", frozen, part, beside, False).prompt.head_lr == 0.03

    def test_blocks_of_seeds_come_before_the_next_block_of_any_part(self):
        parts = {
            "a": Part(models=("m",), tasks=("x", "y"), candidates=(), seeds=(1, 2, 3), block=2),
            "b": Part(models=("m", "n"), tasks=("x",), candidates=(), seeds=(1,)),
            "late": Part(models=("m",), tasks=("x",), candidates=(), seeds=(1, 2), start=3),
        }
        assert [(name, model, task, seeds) for _, name, model, task, seeds in blocks(parts)] == [
            ("a", "m", "x", (1, 2)), ("a", "m", "y", (1, 2)), ("b", "m", "x", (1,)), ("b", "n", "x", (1,)),
            ("a", "m", "x", (3,)), ("a", "m", "y", (3,)), ("late", "m", "x", (1,)), ("late", "m", "x", (2,)),
        ]  # fmt: skip

    def test_a_smaller_design_has_those_tasks_and_seeds(self):
        small = DESIGN.only(["lab/topic"], 12)
        assert small.parts["core"].tasks == ("lab/topic",)
        assert small.parts["core"].seeds == tuple(range(2000, 2012))
        assert small.parts["size"].tasks == ()
        with pytest.raises(UnknownName, match="lab/topic"):
            DESIGN.only(["lab/topc"])

    def test_another_encoder_has_its_own_name_and_no_other_models(self):
        other = DESIGN.with_encoder("somewhere/bert-mini")
        assert other.parts["real"].models == ("bert-mini",)
        assert other.models["bert-mini"] == DESIGN.models["minilm"]
        assert other.parts["core"] == DESIGN.parts["core"]
        place = Place(store=Path(), results=Path(), encoder="somewhere/bert-mini")
        assert (place.source("bert-mini"), place.source("lab-t5")) == ("somewhere/bert-mini", "lab-t5")
        with pytest.raises(BadInput, match="needs a name of its own"):
            DESIGN.with_encoder("folder/lab-bert")


def fine_tune(spec: RunSpec, store: Path) -> dict[str, Any]:
    """What is kept of a run that trains every weight."""
    spec = dataclasses.replace(spec, prompt=dataclasses.replace(spec.prompt, method="full"), engine="reference")
    return _kept(run_all([spec], store, progress=False)[0])


class TestFineTuning:
    def test_it_is_a_plain_loop_over_transformers_own_loss(self, tmp_path):
        task = with_difficulty(TASKS["lab/topic"], train=64, validation=16, test=16)
        settings = TrainSettings(steps=4, eval_every=4, batch_size=8)
        prompt = PromptSettings(method="linear-probe", lr=1e-3, seeds=Seeds.all(3))
        scale = 1 / 32
        spec = RunSpec(
            task=task, model="lab-t5-small", prompt=prompt, settings=settings, backbone={"embedding_scale": scale}
        )
        found = fine_tune(spec, tmp_path / "store")

        loaded = load_backbone("lab-t5-small", embedding_scale=scale)
        model, examples = loaded.model, examples_for(loaded, task, split_rows(task, load_rows(task, None)).train, 0)
        optimizer = torch.optim.AdamW(model.requires_grad_(True).parameters(), lr=1e-3, weight_decay=0.01)
        losses = []
        for step, rows in zip(range(4), stream(examples.lengths, range(64), 8, seed=3), strict=False):
            batch = examples.batch(rows, 0, loaded.pad_id)
            loss = model(input_ids=batch.ids, attention_mask=batch.mask.long(), labels=batch.targets).loss
            losses.append(loss.item())
            loss.backward()
            # Linear decay, no warm-up in so few steps.
            optimizer.param_groups[0]["lr"] = 1e-3 * (4 - step) / 4
            optimizer.step()
            optimizer.zero_grad()
        assert found["loss"] == pytest.approx(losses[-1], rel=1e-4)
        assert losses[-1] != pytest.approx(losses[0], rel=0.01)
        assert (found["steps"], found["status"]) == (4, "finished")

    def test_at_a_rate_that_moves_nothing_it_is_a_head_alone(self, tiny_bert, save_tiny, tmp_path):
        folder = str(save_tiny(tmp_path / "model", *tiny_bert("bert", head=False)))
        prompt = PromptSettings(method="linear-probe", lr=1e-30, seeds=Seeds.all(5))
        settings = TrainSettings(steps=12, eval_every=12, batch_size=8, shots=16, train_score=True)
        spec = RunSpec(task=review_task(tmp_path / "rows"), model=folder, prompt=prompt, settings=settings)
        alone = run_all([spec], tmp_path / "store", progress=False)[0]
        found = fine_tune(spec, tmp_path / "store")
        assert found["loss"] == pytest.approx(statistics.fmean(filter(None, alone.curve["loss"][-2:])), rel=1e-5)
        assert (found["score"], found["validation"]) == (alone.score, alone.validation_score)
        assert (found["train"], found["majority"]) == (alone.metrics["train"]["score"], alone.majority)
        assert found["norm"] is None
        moved = fine_tune(dataclasses.replace(spec, prompt=dataclasses.replace(prompt, lr=1e-2)), tmp_path / "store")
        assert moved["loss"] < found["loss"]

    def test_a_loss_that_is_not_finite_ends_it(self, tmp_path):
        settings = TrainSettings(steps=30, eval_every=30, batch_size=4)
        prompt = PromptSettings(method="linear-probe", lr=1e30)
        task = with_difficulty(TASKS[TASK], train=16, validation=8, test=8)
        found = fine_tune(RunSpec(task=task, model="lab-t5-small", prompt=prompt, settings=settings), tmp_path)
        assert found["score"] is None
        assert found["status"].startswith(f"dropped at step {found['steps'] + 1}")
        assert found["steps"] < 30


class TestResults:
    FOUND = Results(
        {"core/m/lab/opinion/scaled": {"2000": run(0.5), "2001": run(None)}, "real/n/glue/rte/ept": {"2000": run()}},
        {"m": {"scaled": {"chosen": 1.0, "edge": False, "steps": 3, "trials": trials({1.0: 0.5})}}},
    )

    def test_what_was_written_is_read(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_bytes(FILE.to_bytes(vars(self.FOUND)))
        assert read_results(path) == self.FOUND
        assert len(path.read_text().splitlines()) == 10

    def test_there_are_none_where_there_is_no_file(self, tmp_path):
        assert read_results(tmp_path / "r.json") == Results()

    def test_a_cell_is_named_by_part_model_task_and_method(self):
        names = ("core", "lab-t5", "lab/opinion", "ept-star@s=1")
        assert of_key(key_of(*names)) == names

    def test_a_changed_number_is_found(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_bytes(FILE.to_bytes(vars(self.FOUND)).replace(b'"score":0.5', b'"score":0.6', 1))
        with pytest.raises(DamagedFile, match="checksum differs"):
            read_results(path)

    @pytest.mark.parametrize("wrong", [{"score": 1.5}, {"score": "0.5"}, {"lr": None}, {"steps": ...}])
    def test_a_damaged_run_is_named_by_its_cell(self, wrong, tmp_path):
        broken = {name: value for name, value in (run() | wrong).items() if value is not ...}
        path = tmp_path / "r.json"
        path.write_bytes(FILE.to_bytes(vars(Results({"core/m/lab/opinion/scaled": {"2000": broken}}, {}))))
        with pytest.raises(DamagedFile, match="result of core/m/lab/opinion/scaled, seed 2000, is damaged"):
            read_results(path)

    @pytest.mark.parametrize("content", [b"", b"[]", b'{"cells": {}}', b"\xff"])
    def test_another_file_is_refused(self, content, tmp_path):
        path = tmp_path / "r.json"
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match=r"r\.json holds no results"):
            read_results(path)

    def test_another_version_is_refused(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_bytes(FILE.to_bytes(vars(self.FOUND)).replace(b'"format":1', b'"format":2'))
        with pytest.raises(BadInput, match="format 2, this version reads 1"):
            read_results(path)

    def test_a_change_keeps_what_others_wrote(self, tmp_path):
        path = tmp_path / "r.json"
        for key in ("core/m/lab/topic/ept", "core/m/lab/topic/scaled"):
            change_results(path, tmp_path, lambda cells, rates, key=key: cells.update({key: {"2000": run()}}))
        assert len(read_results(path).cells) == 2


class TestTables:
    DESIGN = Design(
        models={"m": Frozen(scale=1.0)},
        parts={
            "core": Part(
                models=("m",), tasks=("a/x", "a/y"), candidates=("prompt-tuning", "scaled", "full"), seeds=(1, 2, 3)
            )
        },
    )

    @staticmethod
    def cells(part: str, scores: dict[str, list[float | None]], **other):
        return {
            f"{part}/m/{name}": {str(seed): run(score, **other) for seed, score in enumerate(found, 1)}
            for name, found in scores.items()
        }

    @property
    def results(self) -> Results:
        scores: dict[str, list[float | None]] = {
            "a/x/prompt-tuning": [0.5, 0.75, 0.94], "a/y/prompt-tuning": [0.5, 0.5, 0.5],
            "a/x/scaled": [0.74, 0.74, 0.74], "a/y/scaled": [1.0, 0.5, None], "a/x/full": [1.0],
        }  # fmt: skip
        return Results(self.cells("core", scores))

    def rows(self, title: str) -> dict[str, dict]:
        return {row["method"]: row for row in tables(self.results, self.DESIGN)[title]}

    def test_a_method_is_its_mean_over_tasks_its_pooled_deviation_and_its_stuck_share(self):
        plain = self.rows("core: m, 250 steps")["prompt-tuning"]
        assert (plain["runs"], plain["mean"]) == (6, pytest.approx((0.73 + 0.5) / 2))
        assert plain["std"] == pytest.approx(math.sqrt((statistics.variance([0.5, 0.75, 0.94]) + 0) / 2))
        # Half of the way from 0.5 to a prompt's best of 0.94: the first run of x, and all three of y.
        assert plain["stuck"] == pytest.approx(4 / 6)
        scaled = self.rows("core: m, 250 steps")["scaled"]
        assert (scaled["mean"], scaled["stuck"]) == (pytest.approx((0.74 + 0.75) / 2), pytest.approx(2 / 6))

    def test_the_best_mean_is_first(self):
        assert list(self.rows("core: m, 250 steps")) == ["full", "scaled", "prompt-tuning"]

    def test_differences_are_over_the_pairs_that_both_scored(self):
        scaled = self.rows("core: m, 250 steps")["scaled"]
        differences = [0.24, -0.01, -0.2, 0.5, 0.0]
        assert (scaled["pairs"], scaled["difference"]) == (5, pytest.approx(0.106))
        assert (scaled["low"], scaled["high"]) == pytest.approx(bootstrap(differences))
        assert scaled["wins / ties / losses"] == "2 / 1 / 2"

    def test_differences_of_one_task_are_of_its_runs_alone(self):
        scaled = self.rows("core: m, 250 steps, by task: against prompt-tuning")["scaled"]
        assert scaled["a/y"].startswith("+0.250 (")
        assert scaled["a/x"].startswith("+0.010 (")

    def test_what_was_not_run_is_listed(self):
        found = tables(self.results, self.DESIGN)["Not run"]
        assert [(row["task"], row["runs"], row["no run of"]) for row in found] == [
            ("a/x", "7 of 9", ""), ("a/y", "6 of 9", "full"),
        ]  # fmt: skip

    def test_a_run_without_a_score_is_named(self):
        assert "core/m/a/y/scaled, seed 3" in text(self.results, self.DESIGN)

    def test_runs_of_another_rate_are_named(self):
        cell = {"1": run(lr=0.1), "2": run(lr=0.3)}
        assert "core/m/a/x/ept has runs of several" in text(Results({"core/m/a/x/ept": cell}), self.DESIGN)

    def test_a_head_alone_is_what_prompts_are_held_against_where_there_is_one(self):
        part = Part(models=("m",), tasks=("a/x",), candidates=("head-only", "ept"), seeds=(1, 2))
        cells = self.cells("real", {"a/x/head-only": [0.5, 0.5], "a/x/ept": [0.75, 1.0]})
        rows = tables(Results(cells), dataclasses.replace(self.DESIGN, parts={"real": part}))["real: m, 250 steps"]
        assert {row["method"]: row["difference"] for row in rows} == {"ept": 0.375, "head-only": None}

    def test_a_longer_training_is_held_against_the_core_of_the_same_seeds(self):
        parts = {**self.DESIGN.parts, "long": dataclasses.replace(self.DESIGN.parts["core"], steps=1000)}
        cells = {**self.results.cells, **self.cells("long", {"a/x/scaled": [1.0, 0.5]})}
        found = tables(Results(cells), dataclasses.replace(self.DESIGN, parts=parts))
        (row,) = found["One condition against another, same task, method and seed"]
        assert (row["condition"], row["pairs"], row["difference"]) == (
            "1000 steps against 250: scaled",
            2,
            pytest.approx(0.01),
        )

    def test_scales_and_guards_are_held_against_none(self):
        names = ("ept-star", "ept-star@s=1", "ept-star-guard")
        part = Part(models=("m",), tasks=("a/x",), candidates=names, seeds=(1, 2))
        cells = self.cells("core", {f"a/x/{name}": [0.5 + i / 4] * 2 for i, name in enumerate(names)})
        found = tables(Results(cells), dataclasses.replace(self.DESIGN, parts={"core": part}))
        rows = found["One condition against another, same task, method and seed"]
        assert {row["condition"]: row["difference"] for row in rows} == {
            "s=1 against 32: ept-star, core, m": 0.25, "largest norm against none: core": 0.5,
        }  # fmt: skip

    def test_no_pair_has_no_difference(self):
        assert paired({("a", 1): run()}, {("a", 2): run()})["difference"] is None

    def test_a_page_keeps_the_words_around_its_tables(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
        write_page(page, "| new |\n", BEGIN)
        write_page(page, "| newer |\n", BEGIN)
        assert page.read_text() == f"before\n{BEGIN}\n\n| newer |\n\n{END}\nafter\n"

    def test_a_page_without_a_place_for_tables_is_refused(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text(f"{BEGIN}\n{BEGIN}\n{END}\n")
        with pytest.raises(BadInput, match="no place for tables"):
            write_page(page, "new", BEGIN)

    def test_the_page_has_the_numbers_of_the_committed_results(self, tmp_path):
        page = tmp_path / "which-method.md"
        shutil.copy(ROOT / "docs/results/which-method.md", page)
        write_page(page, text(read_results(ROOT / "experiments/results/confirm.json"), DESIGN, details=False), BEGIN)
        assert page.read_text() == (ROOT / "docs/results/which-method.md").read_text()

    def test_the_file_of_all_tables_has_the_numbers_of_the_committed_results(self):
        whole = text(read_results(ROOT / "experiments/results/confirm.json"), DESIGN)
        assert (ROOT / "experiments/results/which_method.md").read_text() == whole
        assert "core: lab-t5-small, 250 steps, by task: against prompt-tuning" in whole


class TestRule:
    TASKS = ("a/x", "a/y")
    NAMES = ("prompt-tuning", "prompt-tuning-rms", "scaled", "ept-star", "ept-star@s=1", "full")

    def found(self, **parts: dict[str, float]):
        """The default, and the table of steps, where each part's methods score this on every task and seed."""
        kinds = {"real": ("minilm",), "kinds": ("lab-bert", "lab-gpt")}
        names = {name: tuple(dict.fromkeys((*self.NAMES, *scores))) for name, scores in parts.items()}
        design = Design(
            models={},
            parts={
                name: Part(models=kinds.get(name, ("m",)), tasks=self.TASKS, candidates=names[name], seeds=(1, 2, 3, 4))
                for name in parts
            },
        )
        cells = {
            key_of(name, model, task, one): {str(seed): run(score + 0.001 * seed) for seed in (1, 2, 3, 4)}
            for name, scores in parts.items()
            for model in design.parts[name].models
            for task in self.TASKS
            for one, score in scores.items()
        }
        default, rows = default_method(Results(cells), design)
        return default, {row["step"]: row["found"] for row in rows}, design, Results(cells)

    def test_it_is_the_prompt_with_the_highest_mean(self):
        core = {"prompt-tuning": 0.6, "scaled": 0.8, "ept-star@s=1": 0.9, "full": 0.99, "default": 0.9}
        assert self.found(core=core)[0] == "scaled"

    def test_of_those_that_do_not_differ_it_is_the_one_with_the_fewest_numbers(self):
        # 0.009 is shown by its interval, and is less than what is called a difference.
        default, steps, *_ = self.found(core={"prompt-tuning": 0.709, "scaled": 0.7, "ept-star": 0.69})
        assert (default, steps["not shown to differ from it"]) == ("scaled", "prompt-tuning, scaled")

    def test_fewer_stuck_runs_come_before_fewer_numbers(self):
        default, _, design, results = self.found(core={"prompt-tuning": 0.75, "scaled": 0.75})
        cells = dict(results.cells)
        cells["core/m/a/x/scaled"] = {
            seed: run(score) for seed, score in zip("1234", (0.5, 1.0, 0.5, 1.0), strict=True)
        }
        cells["core/m/a/x/prompt-tuning"] = {seed: run(0.76) for seed in "1234"}
        assert default == "scaled"
        assert default_method(Results(cells), design)[0] == "prompt-tuning"

    @pytest.mark.parametrize(("part", "reference"), [("fewshot", "prompt-tuning"), ("real", "head-only")])
    def test_it_falls_where_another_part_has_it_worse(self, part, reference):
        core = {"prompt-tuning": 0.6, "scaled": 0.8}
        assert self.found(core=core, **{part: {reference: 0.7, "scaled": 0.71}})[0] == "scaled"
        assert self.found(core=core, **{part: {reference: 0.71, "scaled": 0.7}})[0] == "prompt-tuning"

    def test_only_the_decoder_counts_of_the_other_kinds(self):
        core = {"prompt-tuning": 0.6, "scaled": 0.8}
        _, _, design, results = self.found(core=core, kinds={"prompt-tuning": 0.7, "scaled": 0.7})
        worse = {key: {s: run(0.5) for s in "1234"} for key in results.cells if key.endswith("/scaled")}
        for model, default in (("lab-bert", "scaled"), ("lab-gpt", "prompt-tuning")):
            cells = {**results.cells, **{key: cell for key, cell in worse.items() if f"kinds/{model}" in key}}
            assert default_method(Results(cells), design)[0] == default

    def test_where_it_falls_raw_numbers_stand_only_if_they_are_better_than_units(self):
        core = {"prompt-tuning": 0.6, "prompt-tuning-rms": 0.595, "scaled": 0.8}
        worse = {"prompt-tuning": 0.7, "scaled": 0.6}
        assert self.found(core=core, long=worse)[0] == "prompt-tuning-rms"
        assert self.found(core=core | {"prompt-tuning-rms": 0.58}, long=worse)[0] == "prompt-tuning"

    def test_a_part_without_its_runs_is_said_not_to_have_been_run(self):
        default, steps, *_ = self.found(core={"prompt-tuning": 0.6, "scaled": 0.8}, long={})
        assert (default, steps["long: m, against prompt-tuning"]) == ("scaled", "not run")

    def test_with_a_head_alone_prompt_tuning_is_no_reference_though_nothing_was_run(self):
        _, _, design, results = self.found(core={"prompt-tuning": 0.6}, real={"head-only": 0.5})
        cells = {key: cell for key, cell in results.cells.items() if key.startswith("core/")}
        steps = {row["step"]: row["found"] for row in default_method(Results(cells), design)[1]}
        assert steps["real: minilm, against head-only"] == "not run"

    def test_nothing_is_the_default_before_there_are_runs(self):
        assert self.found(core={})[:2] == (None, {})

    def test_the_tables_say_where_it_loses(self):
        _, _, design, results = self.found(core={"prompt-tuning": 0.6, "scaled": 0.8})
        cells = {**results.cells, "core/m/a/y/scaled": {seed: run(0.5) for seed in "1234"}}
        (row,) = tables(Results(cells), design)["Where scaled loses, by task"]
        assert (row["task"], row["difference"]) == ("a/y", pytest.approx(-0.1025))


def without_seconds(found: Results):
    cells = {
        key: {seed: {n: v for n, v in one.items() if n != "seconds"} for seed, one in cell.items()}
        for key, cell in found.cells.items()
    }
    return cells, found.rates


@pytest.fixture(scope="class")
def few_rows():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_design, "ROWS", {"train": 32, "validation": 8, "test": 32})
        patched.setattr(_design, "TRIAL_ROWS", {"train": 32, "validation": 32, "test": 8})
        yield


@pytest.mark.usefixtures("few_rows")
class TestStudy:
    @pytest.fixture(scope="class")
    @staticmethod
    def done(tmp_path_factory, few_rows):
        folder = tmp_path_factory.mktemp("confirm")
        place = Place(store=folder / "store", results=folder / "r.json")
        return place, confirm(SMALL, place)

    def test_it_has_every_run_and_rate(self, done):
        _, found = done
        assert sorted(found.cells) == sorted(
            key_of("core", "lab-t5-small", TASK, one) for one in ("prompt-tuning", "scaled", "default", "full")
        )
        assert all(set(cell) == {"2000", "2001"} for cell in found.cells.values())
        rates = found.rates["lab-t5-small"]
        for one, cell in ((of_key(key)[3], cell) for key, cell in found.cells.items()):
            assert {r["lr"] for r in cell.values()} == {rates[one]["chosen"]}
            assert sorted(map(float, rates[one]["trials"])) == list(CANDIDATES[one].rates)
            is_edge = not CANDIDATES[one].is_fixed and rates[one]["chosen"] != CANDIDATES[one].rates[1]
            assert rates[one]["edge"] == is_edge

    def test_a_run_is_that_of_the_store(self, done):
        place, found = done
        (name,) = [key for key in found.cells if key.endswith("/scaled")]
        kept = found.cells[name]["2001"]
        part = SMALL.parts["core"]
        wanted = RunRequest(task=TASK, candidate="scaled", rate=kept["lr"], seed=2001)
        spec = _spec("lab-t5-small", SMALL.models["lab-t5-small"], part, wanted, False)
        stored = run_all([spec], place.store, progress=False)[0]
        assert (kept["score"], kept["majority"]) == pytest.approx((stored.score, stored.majority), rel=1e-5)
        assert (kept["norm"], kept["steps"]) == (stored.curve["token_norms"][-1], 3)

    def test_without_its_store_it_runs_nothing_again(self, done, tmp_path, monkeypatch):
        place, found = done
        monkeypatch.setattr(runs_module, "run_all", None)
        assert confirm(SMALL, dataclasses.replace(place, store=tmp_path)) == found

    @pytest.mark.parametrize("at", [1, 7] if ALL else [7])
    def test_stopped_anywhere_it_goes_on_to_the_same_results(self, at, done, tmp_path, monkeypatch):
        original, steps = Loop._optimize, []

        def stopped(loop):
            steps.append(loop.step)
            if len(steps) == at:
                signal.raise_signal(signal.SIGINT)
            return original(loop)

        monkeypatch.setattr(Loop, "_optimize", stopped)
        place = Place(store=tmp_path / "store", results=tmp_path / "r.json")
        with pytest.raises(Interrupted, match="goes on"):
            confirm(SMALL, place)
        assert without_seconds(confirm(SMALL, place)) == without_seconds(done[1])
        assert text(read_results(place.results), SMALL) == text(done[1], SMALL)

    def test_stopped_while_fine_tuning_it_says_so_and_goes_on(self, done, tmp_path, monkeypatch):
        original, steps = Loop._optimize, []

        def stopped(loop):
            if loop.members[0].settings.method == "full":
                steps.append(loop.step)
                if len(steps) == 4:
                    raise KeyboardInterrupt
            return original(loop)

        monkeypatch.setattr(Loop, "_optimize", stopped)
        place = Place(store=tmp_path / "store", results=tmp_path / "r.json")
        with pytest.raises(Interrupted, match="the same command goes on"):
            confirm(SMALL, place)
        assert without_seconds(confirm(SMALL, place)) == without_seconds(done[1])

    def test_rates_alone_make_no_cell(self, tmp_path):
        place = Place(store=tmp_path / "store", results=tmp_path / "r.json")
        assert confirm(SMALL, place, "rates").cells == {}
        assert read_results(place.results).chosen("lab-t5-small", "scaled") is not None

    def test_the_real_part_is_left_out_where_its_rows_are_not_at_hand(self, done):
        place, found = done
        real = Part(models=("minilm",), tasks=("glue/sst2",), candidates=("ept",), seeds=(1,))
        models = {**SMALL.models, "minilm": Frozen(scale=None)}
        assert confirm(Design(models=models, parts={**SMALL.parts, "real": real}), place) == found

    def test_a_part_that_does_not_exist_is_named(self, done):
        with pytest.raises(UnknownName, match="Did you mean 'core'"):
            confirm(SMALL, done[0], "cor")


@pytest.mark.usefixtures("few_rows")
class TestCommand:
    def test_quick_runs_and_its_table_needs_the_results_alone(self, tmp_path, capsys, monkeypatch):
        design = QUICK if ALL else SHORT
        monkeypatch.setattr(confirmation, "QUICK", design)
        results = tmp_path / "r.json"
        words = ["--quick", "--results", str(results)]
        assert main([*words, "--store", str(tmp_path / "store"), "--quiet"]) == 0
        assert capsys.readouterr().out == f"{results}\n"
        shutil.rmtree(tmp_path / "store")
        assert main([*words, "--table"]) == 0
        printed = capsys.readouterr().out
        assert printed == text(read_results(results), design)
        assert "| scaled |" in printed
        assert main([*words, "--table", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        titles = tables(read_results(results), design)
        assert rows == [{"table": title, **row} for title, found in titles.items() for row in found]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--part", "cor"], "Did you mean 'core'"),
            (["--task", "lab/topc"], "Did you mean 'lab/topic'"),
            (["--page", "p.md"], "give --table too"),
            (["--table"], "does not exist; run `python -m experiments.which_method` first"),
        ],
    )
    def test_mistakes_are_one_line(self, words, said, tmp_path, capsys):
        place = ["--results", str(tmp_path / "r.json"), "--store", str(tmp_path / "store")]
        assert main([*words, *place]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line

    def test_public_names_are_documented(self):
        assert all(getattr(confirmation, name).__doc__ for name in ("confirm", "tables", "text", "Part", "Place"))
