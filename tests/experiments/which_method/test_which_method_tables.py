"""Results of the study of methods, and the tables that are made of them."""

import dataclasses
import math
import shutil
import statistics
from pathlib import Path

import pytest
from experiments.common.page import END, write_page
from experiments.which_method import (
    DESIGN,
    Design,
    Frozen,
    Part,
    Results,
    key_of,
    of_key,
    paired,
    read_results,
    tables,
    text,
)
from experiments.which_method.results import FILE, change_results
from experiments.which_method.tables import BEGIN
from softprompt.errors import BadInput, DamagedFile
from softprompt.study.statistics import bootstrap

from which_method_kit import run, trials

ROOT = Path(__file__).parents[3]


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

    def test_a_head_alone_is_what_prompts_are_compared_with_where_there_is_one(self):
        part = Part(models=("m",), tasks=("a/x",), candidates=("head-only", "ept"), seeds=(1, 2))
        cells = self.cells("real", {"a/x/head-only": [0.5, 0.5], "a/x/ept": [0.75, 1.0]})
        rows = tables(Results(cells), dataclasses.replace(self.DESIGN, parts={"real": part}))["real: m, 250 steps"]
        assert {row["method"]: row["difference"] for row in rows} == {"ept": 0.375, "head-only": None}

    def test_a_longer_training_is_compared_with_the_core_of_the_same_seeds(self):
        parts = {**self.DESIGN.parts, "long": dataclasses.replace(self.DESIGN.parts["core"], steps=1000)}
        cells = {**self.results.cells, **self.cells("long", {"a/x/scaled": [1.0, 0.5]})}
        found = tables(Results(cells), dataclasses.replace(self.DESIGN, parts=parts))
        (row,) = found["One condition against another, same task, method and seed"]
        assert (row["condition"], row["pairs"], row["difference"]) == (
            "1000 steps against 250: scaled",
            2,
            pytest.approx(0.01),
        )

    def test_scales_and_guards_are_compared_with_none(self):
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
