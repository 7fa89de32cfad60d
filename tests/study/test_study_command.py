"""Plans, and the commands of `softprompt study`."""

import csv
import dataclasses
import itertools
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from softprompt import store as store_module
from softprompt.cli import main
from softprompt.settings import TrainSettings
from softprompt.study import (
    StoredRun,
    compare,
    export,
    grid,
    load_specs,
    markdown,
    plan,
    read,
    run_all,
    status,
    summary,
    under_other_names,
)
from softprompt.study._failed import mark_failed
from softprompt.study._fleets import claim, finish, give_up, group
from softprompt.study._progress import state
from softprompt.study._stored import path_of, to_bytes
from softprompt.training._measure import Measured, seconds_of_step

from study_kit import QUICK, stored


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

    def test_races_of_runs_of_other_steps_are_measured_apart(self, task, model, tmp_path):
        axes = {"task": task, "model": model, "restarts": 3, "restart_steps": 4, "batch_size": 8}
        short, long, both = (
            plan(tmp_path / "store", grid(**axes, steps=steps), fleet_size=1)[0] for steps in ([4], [40], [4, 40])
        )
        # 4 steps of three prompts, and 36 more of one.
        assert (long.tokens or 0) == pytest.approx((short.tokens or 0) * (12 + 36) / 12, abs=1)
        assert both.tokens == (short.tokens or 0) + (long.tokens or 0)

    @pytest.mark.parametrize(
        "slow",
        [{"dtype": "bfloat16"}, {"engine": "reference"}, {"gradient_checkpointing": True},
         {"eval_every": 1}, {"eval_rows": 96}],
    )  # fmt: skip
    def test_costs_are_those_of_each_precision_and_number_of_evaluations(
        self, slow, task, model, tmp_path, monkeypatch
    ):
        axes = {"task": task, "model": model, "seed": [0, 1], **QUICK}
        fast, others = grid(**axes), grid(**{**axes, **slow})

        def measured(fleet, models, data_root):
            return Measured(steps=4, rows=8, tokens=4, seconds=float(len(fleet) * (1 if fleet[0] in fast else 10)))

        monkeypatch.setattr("softprompt.study._plan._measured", measured)
        (part,) = plan(tmp_path / "store", [*fast, *others])
        assert part.seconds == pytest.approx(2 * 1 + 2 * 10)

    def test_a_run_that_begins_from_vectors_of_another_length_costs_what_these_take(self, task, model, tmp_path):
        np.save(tmp_path / "3.npy", np.ones((3, 16), dtype=np.float32))
        given, longer = (
            plan(tmp_path / "store", grid(task=task, model=model, init=init, **QUICK))[0]
            for init in (f"file:{tmp_path / '3.npy'}", "uniform")
        )
        # Four steps of four rows, each with three vectors in place of ten.
        assert (longer.tokens or 0) - (given.tokens or 0) == 4 * 4 * (10 - 3)

    @pytest.mark.parametrize(
        ("seconds", "timed", "steps"), [([4, 1, 2, 3], 2.0, 4), ([20], 20.0, 1), ([1, 8, 8], 8.0, 3)]
    )
    def test_long_steps_are_timed_less_often_and_the_first_only_where_it_is_long(
        self, seconds, timed, steps, monkeypatch
    ):
        clock, took = [0.0], iter(seconds)

        def take_step():
            clock[0] += next(took)

        monkeypatch.setattr("softprompt.training._measure.time.perf_counter", lambda: clock[0])
        assert seconds_of_step(take_step, 3, 10.0) == timed
        assert len(seconds) - len(list(took)) == steps


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

    @pytest.fixture
    def published(self, tmp_path):
        """A store of invented runs beside published numbers: the third rate is the best on validation rows only."""
        (tmp_path / "own.json").write_text(
            json.dumps({"tables": {"a": {"cells": [
                {"task": "glue/rte", "method": "ept", "value": 61.5},
                {"task": "glue/rte", "method": "residual", "value": None, "label": "=lost & gone"},
            ]}}})
        )  # fmt: skip
        path = tmp_path / "study.toml"
        path.write_text(
            'reference = "own.json#a"\n[[runs]]\ntask = "glue/rte"\nmodel = "m"\nmethod = ["ept", "residual"]\n'
            "lr = [0.1, 0.2, 0.3]\nseed = [0, 1]\n"
        )
        for spec in load_specs(path):
            is_best = spec.prompt.lr == 0.3
            metrics = {"validation": {"score": 0.6 + is_best / 5}, "test": {"score": 0.53 if is_best else 0.6}}
            run = StoredRun.without_result(spec, metrics, "finished", majority=0.5)
            store_module.write_file(path_of(tmp_path / "store", spec.name), to_bytes(run), what="a run")
        return [str(path), "--store", str(tmp_path / "store")]

    def test_a_rate_is_chosen_by_validation_and_only_then_stands_the_papers_number_beside_it(self, published, capsys):
        assert main(["study", "table", *published]) == 0
        found = capsys.readouterr()
        assert "paper" not in found.out
        assert found.err == (
            "softprompt: no published number stands beside runs that differ in lr: each is of one value, chosen on "
            "validation rows; give --best lr\n"
        )
        assert main(["study", "table", *published, "--best", "lr", "--json"]) == 0
        found = capsys.readouterr()
        rows = [json.loads(line) for line in found.out.splitlines()]
        assert [(row["method"], row["lr"], row["n"], row["mean"]) for row in rows] == [
            ("ept", 0.3, 2, 0.53), ("residual", 0.3, 2, 0.53)
        ]  # fmt: skip
        assert [(row["paper"], row["difference"]) for row in rows] == [
            (0.615, pytest.approx(-0.085)), ("=lost & gone", None)
        ]  # fmt: skip
        assert found.err == ""
        # Beside the best of all runs, not of those that were chosen.
        assert [row["stuck"] for row in rows] == [1, 1]
        path_of(Path(published[2]), load_specs(published[0])[0].name).unlink()
        assert main(["study", "table", *published, "--best", "lr"]) == 0
        assert "the table is of the others, and lr is chosen among them\n" in capsys.readouterr().err
        for words in (["--best", "lr", "--by", "lr"], ["--best", "lr", "--against", "lr=0.1"], ["--best", "seed"]):
            assert main(["study", "table", *published, *words]) == 2
            assert "--best" in capsys.readouterr().err.splitlines()[-1]

    def test_published_numbers_of_other_steps_say_so(self, published, capsys):
        own = Path(published[0]).parent / "own.json"
        table = json.loads(own.read_text())
        table["tables"]["a"]["settings"] = {"steps": 30000, "batch_size": 16}
        own.write_text(json.dumps(table))
        assert main(["study", "table", *published, "--best", "lr"]) == 0
        assert capsys.readouterr().err == (
            "softprompt: the published numbers are of steps 30000; these runs have steps 1000\n"
        )

    def test_runs_that_nothing_chooses_are_said_and_in_no_row(self, published, capsys):
        specs, store = load_specs(published[0]), Path(published[2])
        for spec in specs:
            if spec.prompt.method == "ept":
                path_of(store, spec.name).unlink()
                run = StoredRun.without_result(spec, {}, "dropped at step 1: nan")
                store_module.write_file(path_of(store, spec.name), to_bytes(run), what="a run")
        assert main(["study", "table", *published, "--best", "lr", "--json"]) == 0
        found = capsys.readouterr()
        assert [json.loads(line)["method"] for line in found.out.splitlines()] == ["residual"]
        assert found.err == "softprompt: 6 runs have no validation score to choose lr by; they are in no row\n"
        for spec in specs[6:]:
            path_of(store, spec.name).unlink()
        assert main(["study", "table", *published, "--best", "lr"]) == 2
        assert "has a validation score to choose lr by; leave --best out" in capsys.readouterr().err

    def test_a_table_is_written_as_csv_latex_and_markdown_with_a_label_in_place_of_a_lost_number(
        self, published, tmp_path, capsys
    ):
        for end in ("csv", "tex", "md"):
            path = tmp_path / f"table.{end}"
            assert main(["study", "table", *published, "--best", "lr", "--output", str(path)]) == 0
            assert capsys.readouterr().out == f"{path}\n"
        with (tmp_path / "table.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["method"], row["lr"], row["mean"], row["paper"]) for row in rows] == [
            ("ept", "0.3", "0.53", "0.615"), ("residual", "0.3", "0.53", "'=lost & gone")
        ]  # fmt: skip
        assert [row["difference"] for row in rows] == [str(0.53 - 0.615), ""]
        lines = (tmp_path / "table.tex").read_text().splitlines()
        assert next(line for line in lines if line.startswith("ept &")).endswith(r"& 0.615 & -0.085 \\")
        assert next(line for line in lines if line.startswith("residual &")).endswith(r"& =lost \& gone &  \\")
        assert main(["study", "table", *published, "--best", "lr", "--markdown"]) == 0
        assert capsys.readouterr().out == (tmp_path / "table.md").read_text()
        for name, reason in (("table.csv", "exists already"), ("table.json", "ends in none of .csv, .tex, .md")):
            assert main(["study", "table", *published, "--output", str(tmp_path / name)]) == 2
            assert reason in capsys.readouterr().err
        assert not (tmp_path / "table.json").exists()
        assert main(["study", "table", *published, "--output", str(tmp_path / "new.md"), "--json"]) == 2
        assert "give one of them" in capsys.readouterr().err

    def test_without_a_store_the_runs_are_below_the_current_folder_by_file_and_scale(
        self, file, tmp_path, capsys, monkeypatch
    ):
        file.write_text(f"{file.read_text()}\n[scales.small]\nseed = [0]\n")
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        said = "softprompt: the runs are in {}; --store names another folder\n"
        for words, name, count in (([], "study", 4), (["--scale", "small"], "study-small", 2)):
            place = str(Path("runs", name))
            assert main(["study", "run", str(file), *words, "--device", "cpu", "--quiet"]) == 0
            found = capsys.readouterr()
            assert (found.out, found.err) == (f"{place}\n", said.format(place))
            assert len(list(Path(place, "runs").glob("*.json"))) == count
            for command in (["plan", "--no-measure"], ["table"], ["status"], ["best"]):
                assert main(["study", command[0], str(file), *words, *command[1:], "--json"]) == 0
                found = capsys.readouterr()
                assert said.format(place) in found.err
                assert found.out
            assert main(["study", "export", str(file), f"{name}.csv", *words]) == 0
            assert main(["study", "compare", str(file), "method=ept-star", *words]) == 0
            capsys.readouterr()
        # The scale that a file is written at has the place of no scale.
        assert main(["study", "status", str(file), "--scale", "paper"]) == 0
        assert capsys.readouterr().out.startswith("4 of 4 runs stored")
        assert main(["study", "status", str(file), "--scale", "smal"]) == 2
        assert capsys.readouterr().err.count("\n") == 1

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

    def test_a_status_counts_no_run_of_another_study_that_shares_a_fleet_with_it(self, specs, tmp_path):
        held = claim(tmp_path, group(specs[:4], 4)).fleet
        assert held is not None
        now = status(tmp_path, specs[3:])
        assert (now.running, now.left) == (1, len(specs[3:]) - 1)
        assert [fleet.names for fleet in now.training] == [(specs[3].name,)]
        give_up(tmp_path, held)

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

    def test_no_text_of_csv_is_a_formula_in_a_spreadsheet(self, tmp_path):
        rows = [{"run": "a", "@tag": "=1+1", "test score": -1.0}]
        assert export(rows, tmp_path / "runs.csv").read_text() == "run,'@tag,test score\na,'=1+1,-1.0\n"

    @pytest.mark.parametrize("end", ["json", "md", "csv"])
    def test_a_whole_number_beside_an_empty_cell_stays_whole(self, end, tmp_path):
        rows = [{"run": "a", "k": 16, "lr": 1e-4, "test score": 1.0}, {"run": "b", "k": None, "lr": math.nan}]
        text = export(rows, tmp_path / f"runs.{end}").read_text()
        assert (
            text
            == {
                "json": json.dumps([rows[0], {**dict.fromkeys(rows[0]), "run": "b"}], indent=1) + "\n",
                "md": "| run | k | lr | test score |\n"
                + "| --- " * 4
                + "|\n| a | 16 | 0.0001 | 1.0 |\n| b |  |  |  |\n",
                "csv": "run,k,lr,test score\na,16,0.0001,1.0\nb,,,\n",
            }[end]
        )

    def test_a_table_says_that_a_file_had_other_contents_for_some_of_its_runs(self, file, tmp_path, capsys):
        for digest, spec in zip("ab", load_specs(file), strict=False):
            run = StoredRun.without_result(spec, {"test": {"score": 0.5}}, "finished", inputs={"/rows.csv": digest})
            store_module.write_file(path_of(tmp_path, spec.name), to_bytes(run), what="a run")
        assert main(["study", "table", str(file), "--store", str(tmp_path)]) == 0
        assert "softprompt: /rows.csv had other contents for run " in capsys.readouterr().err

    def test_a_lone_carriage_return_in_a_tag_ends_no_row_of_a_csv_file(self, tmp_path):
        rows = [{"run": "a", "tag": "x\ry"}, {"run": "b", "tag": 'z, "w"'}]
        path = export(rows, tmp_path / "runs.csv")
        with path.open(newline="") as file:
            assert list(csv.DictReader(file)) == rows
        assert pandas.read_csv(path).to_dict("records") == rows

    def test_mistakes_are_one_line_and_exit_code_2(self, file, tmp_path, capsys):
        store = str(tmp_path / "store")
        file.write_text(file.read_text().replace("steps = 4", "stepz = 4"))
        assert main(["study", "run", str(file), "--store", store]) == 2
        assert capsys.readouterr().err == "softprompt: unknown setting of a run 'stepz'. Did you mean 'steps'?\n"
        assert not Path(store).exists()

    @pytest.mark.parametrize("words", [["run"], ["table"], ["status"]])
    def test_a_store_that_is_a_file_is_one_line(self, words, file, tmp_path, capsys):
        (tmp_path / "store").touch()
        assert main(["study", *words, str(file), "--store", str(tmp_path / "store")]) == 2
        message = (
            f"softprompt: {tmp_path / 'store'} is no folder; give --store a folder, which is made if it is not there"
        )
        assert capsys.readouterr().err.splitlines() == [message]

    def test_a_study_whose_folder_was_renamed_is_told_why_its_runs_are_not_found(self, file, tmp_path, capsys):
        specs, store = load_specs(file), tmp_path.with_name(f"{tmp_path.name}-store")
        (store / "runs").mkdir(parents=True)
        path_of(store, specs[0].name).touch()
        assert under_other_names(store, specs) is None
        moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
        assert main(["study", "table", str(moved / file.name), "--store", str(store)]) == 2
        assert "holds runs, and none of these: runs are named by the whole paths" in capsys.readouterr().err
        moved.rename(tmp_path)

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


def test_a_study_says_once_that_a_decoder_reads_own_rows_in_other_words_than_train(
    task, tiny_gpt, save_tiny, tmp_path, caplog
):
    decoder = str(save_tiny(tmp_path / "gpt", *tiny_gpt()))
    specs = grid(task=task, model=decoder, seed=[0, 1], **QUICK)
    run_all(specs, tmp_path / "store", fleet_size=1, progress=False)
    told = [line for line in caplog.messages if "a study has a decoder read" in line]
    assert told == [
        "reviews: a study has a decoder read '{text}', train has it read 'text: {text}\\nlabel:'; "
        "write template = ... into the task for both"
    ]
    caplog.clear()
    own = dataclasses.replace(task, template="It is {text}. Good?", cue="")
    run_all(grid(task=own, model=decoder, **QUICK), tmp_path / "other", progress=False)
    assert not [line for line in caplog.messages if "a study has a decoder read" in line]
