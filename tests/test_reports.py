"""Reports: what they read, and what they say of runs that are not whole."""

import base64
import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import softprompt
from filelock import FileLock
from softprompt.cli import main
from softprompt.documents import json_bytes, sealed_bytes, sha256_of
from softprompt.errors import BadInput
from softprompt.inference.class_scores import calibration_error
from softprompt.inference.report import Report
from softprompt.prompts.methods import METHODS
from softprompt.reports._answers import calibration
from softprompt.reports._figures import Drawer, Drawn, of_settings
from softprompt.reports._settings import settings_of
from softprompt.reports._sources import read_sources
from softprompt.reports._tables import Table, runs_table
from softprompt.settings import PromptSettings
from softprompt.study import load, stored_names
from softprompt.study._fleets import run_folder
from softprompt.study._stored import path_of, to_bytes
from softprompt.tasks import task as find_task

from kit import review_task, rewrite
from report_kit import made_answers, made_run, made_store, renamed_task, scored


@pytest.fixture(autouse=True)
def figures(request, monkeypatch):
    """Drawing takes most of the time of a page: only a test that is marked so draws."""
    if request.node.get_closest_marker("usefixtures") is None:
        monkeypatch.setattr(Drawer, "drawn", lambda self, title, text, draw, *_, **__: [Drawn(title, "<svg/>", text)])


@pytest.fixture
def drawn():
    """Figures are drawn."""


def page_of(*runs: Path, **options) -> str:
    output = runs[0].parent / "page.html"
    return softprompt.report(*runs, output=output, replace=True, **options).read_text()


class TestBadInput:
    @pytest.fixture
    def run(self, tmp_path):
        return made_run(tmp_path / "run")

    @pytest.mark.usefixtures("drawn")
    def test_a_torn_last_line_a_damaged_one_and_a_loss_of_nan_are_told_and_the_rest_is_drawn(self, run):
        record = run / "ept-star-seed0" / "metrics.jsonl"
        lines = record.read_text().splitlines()
        lines[2], lines[5] = "garbage", '{"step": 6, "loss": NaN}'
        record.write_text("\n".join(lines) + '\n{"step": 41, "lo')
        page = page_of(run)
        assert "ept-star-seed0: damaged lines of its record are left out: 3" in page
        assert "ept-star-seed0: the last line of its record is torn and left out" in page
        assert "ept-star-seed0: losses that are not finite are not drawn: 1" in page
        assert "Training loss" in page
        assert "nan" not in re.sub(r"data:[^\"]*", "", page)

    def test_a_killed_run_and_one_in_training_are_told_apart(self, run):
        (run / "ept-star-seed1" / "result.json").unlink()
        assert "ept-star-seed1: not trained to its end: it has reached step 40 of 40" in page_of(run)
        with FileLock(run / ".lock"):
            assert "ept-star-seed1: still in training: it has reached step 40 of 40" in page_of(run)

    @pytest.mark.usefixtures("drawn")
    def test_a_run_of_a_single_step_has_its_point(self, tmp_path):
        page = page_of(made_run(tmp_path / "one", steps=1, seeds=1))
        assert "it has a single step" in page
        assert "Training loss" in page

    def test_a_damaged_result_is_told_and_the_other_prompts_are_shown(self, run):
        (run / "ept-star-seed0" / "result.json").write_text("{")
        page = page_of(run)
        assert "ept-star-seed0/result.json&#39; is not JSON" in page
        assert "ept-star-seed2" in page

    def test_a_run_without_any_result_has_no_headline(self, run):
        for result in run.glob("*/result.json"):
            result.unlink()
        assert "No prompt of this task has a test score yet" in page_of(run)

    def test_runs_of_a_method_that_is_not_registered_are_left_out_by_name(self, tmp_path, monkeypatch):
        own, known = (made_run(tmp_path / method, methods=(method,)) for method in ("ept-star", "prompt-tuning"))
        store = made_store(tmp_path / "store", count=4)
        monkeypatch.delitem(METHODS, "ept-star")
        sources = read_sources([own, known, store])
        assert [entry.run.spec.prompt.method for entry in sources.entries] == ["prompt-tuning"] * 5
        about = [note.partition(" is left out: unknown method 'ept-star'.") for note in sources.notes]
        assert [place.partition(" of ")[2] or place for place, _, _ in about] == [str(own), str(store), str(store)]
        assert all("make the report in a program that registers it" in what for _, _, what in about)

    def test_a_folder_without_runs_a_missing_one_and_a_file_that_exists_are_one_line(self, run, tmp_path, capfd):
        (tmp_path / "empty").mkdir()
        (tmp_path / "there.html").write_text("kept")
        for words, message in (
            ([str(tmp_path / "empty"), "-o", str(tmp_path / "x.html")], "holds no run"),
            ([str(tmp_path / "nowhere"), "-o", str(tmp_path / "x.html")], "is not a folder"),
            ([str(run), "-o", str(tmp_path / "there.html")], "exists already"),
            ([str(run), "-o", str(tmp_path)], "is a folder"),
            ([str(run), "-o", str(tmp_path / "a" / "x.html")], "does not exist"),
            ([str(run), "-o", str(tmp_path / "x.html"), "--test-rows", "3"], "--test-rows says how rows"),
        ):
            assert main(["report", *words]) == 2
            told = capfd.readouterr().err
            assert message in told
            assert told.count("\n") == 1
        assert (tmp_path / "there.html").read_text() == "kept"
        assert not (tmp_path / "x.html").exists()

    def test_rows_of_a_study_that_kept_no_prompt_are_refused(self, tmp_path):
        with pytest.raises(BadInput, match="kept none"):
            page_of(made_store(tmp_path / "store", count=4), rows=True)

    def test_the_best_prompt_is_asked_with_the_options_of_evaluate(self, run, monkeypatch):
        rows = made_answers(run / "ept-star-seed0", n=200)
        asked = []

        def evaluate(prompt, **options):
            asked.append((prompt.provenance.method, options))
            return Report({}, len(rows), 0, [], task=find_task("lab/opinion"), answered=lambda: iter(rows))

        monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluate)
        lines = []
        page = page_of(run, rows=True, test_rows=200, tell=lines.append)
        assert asked == [("prompt-tuning", {"test_rows": 200})]
        assert lines == ["prompt-tuning-seed2: answers the test rows of lab/opinion"]
        assert "Of the prompt <strong>prompt-tuning-seed2</strong> to 200 test rows" in page
        # Three of four answers are right: much more than one class, and the interval of that is above 0.
        assert "The gain is significant" in page

    def test_answers_that_are_not_as_written_are_an_error(self, run):
        made_answers(run / "prompt-tuning-seed2")
        (run / "prompt-tuning-seed2" / "evaluation" / "predictions.jsonl").write_text('{"text": "x"}\n')
        with pytest.raises(softprompt.errors.DamagedFile, match="evaluate again"):
            page_of(run)


class TestPage:
    def test_answers_to_other_rows_than_the_frozen_models_say_nothing_of_a_gain(self, tmp_path):
        run = made_run(tmp_path / "run")
        made_answers(run / "prompt-tuning-seed2")
        baseline = {"name": "frozen", "score": 0.123, "interval": None, "predictions": [0, 1], "text": "", "draw": None,
                    "calibrated": None}  # fmt: skip
        (run / "frozen.json").write_text(json.dumps({"places": [0, 1], "baselines": [baseline]}))
        assert "Whether the gain is significant is not known" in page_of(run)

    def test_what_the_frozen_model_did_is_not_believed_where_its_file_is_damaged(self, tmp_path):
        run = made_run(tmp_path / "run")
        made_answers(run / "prompt-tuning-seed2")
        baseline = {"name": "frozen", "score": 0.5, "interval": None, "predictions": [0] * 40, "text": "",
                    "draw": None, "calibrated": None}  # fmt: skip
        values = {"format": 2, "places": list(range(40)), "baselines": [baseline]}
        (run / "frozen.json").write_bytes(sealed_bytes(values))
        assert "scores 0.250 more than" in page_of(run)
        # Two answers are exchanged, so that the score stays.
        seal = json.loads((run / "frozen.json").read_bytes())["sha256"]
        baseline["predictions"] = [1, 1, *[0] * 38]
        (run / "frozen.json").write_bytes(json_bytes({**values, "sha256": seal}))
        assert "Whether the gain is significant is not known" in page_of(run)

    def test_answers_are_those_of_the_best_prompt_that_kept_any_and_of_equals_of_the_first(self, tmp_path):
        run = made_run(tmp_path / "run")
        validation = {"prompt-tuning-seed1": None, "prompt-tuning-seed0": 0.79, "ept-star-seed1": 0.79}
        for prompt, score in validation.items():
            scored(run / prompt, score, "validation")
        # From the last to the first, so that each comes before those that have answers already.
        for prompt in ("prompt-tuning-seed1", "ept-star-seed2", "ept-star-seed1", "prompt-tuning-seed0"):
            made_answers(run / prompt)
            scored(run / prompt, 0.99 if prompt == "ept-star-seed1" else 0.1)
            assert f"Of the prompt <strong>{prompt}</strong> to 40 test rows" in page_of(run)

    def test_rows_ask_the_model_also_where_answers_are_kept(self, tmp_path, monkeypatch):
        run = made_run(tmp_path / "run")
        rows = made_answers(run / "prompt-tuning-seed2")
        asked = []

        def evaluate(prompt, **options):
            asked.append(options)
            return Report({}, len(rows), 0, [], task=find_task("lab/opinion"), answered=lambda: iter(rows))

        monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluate)
        page_of(run, rows=True, test_rows=7)
        assert asked == [{"test_rows": 7}]

    @pytest.mark.parametrize("given", [{}, {"data_root": "elsewhere"}])
    def test_rows_are_read_where_the_run_read_them_unless_another_folder_is_given(self, given, tmp_path, monkeypatch):
        run = made_run(tmp_path / "run", methods=("prompt-tuning",), seeds=1)
        rewrite(run / "run.json", lambda values: values.update(data_root="/data"))
        asked = []

        def evaluate(prompt, **options):
            asked.append(options)
            raise BadInput("these 3 rows were given in memory; give them again")

        monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluate)
        told = "prompt-tuning-seed0: these 3 rows were given in memory; give them again; or leave `rows` out"
        with pytest.raises(BadInput, match=f"^{told}, or leave this run out of the report$"):
            page_of(run, rows=True, **given)
        assert asked == [{"data_root": "/data", **given}]

    def test_a_file_of_test_rows_that_changed_since_the_run_is_not_answered_beside_its_score(
        self, tmp_path, monkeypatch
    ):
        task = review_task(tmp_path / "rows")
        files = {path: sha256_of(Path(path)) for path in task.source.every_path}
        run = made_run(tmp_path / "run", task=task, methods=("prompt-tuning",), seeds=1)
        rewrite(run / "run.json", lambda values: values.update(files=files))

        def evaluate(prompt, **options):
            raise BadInput("asked")

        monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluate)
        # Test rows that are a file of their own are the same whatever becomes of the others.
        for split, told in (("train", "asked"), ("test", "test.csv had other contents when this prompt was scored")):
            (path,) = map(Path, task.source.paths(split))
            path.write_text(path.read_text() + "a good film,bad\n")
            with pytest.raises(BadInput, match=rf"{told}.*; or leave `rows` out"):
                page_of(run, rows=True)
        page_of(run)

    def test_the_rows_of_a_kept_run_of_a_study_are_read_where_it_read_them(self, tmp_path, monkeypatch):
        store = made_store(tmp_path / "store", count=1)
        (name,) = stored_names(store)
        run = load(store, name)
        assert run is not None
        path_of(store, name).write_bytes(to_bytes(dataclasses.replace(run, fleet=(name,))))
        kept = made_run(run_folder(store, [name]), methods=("prompt-tuning",), seeds=1)
        rewrite(kept / "run.json", lambda values: values.update(data_root="/data"))
        asked = []

        def evaluate(prompt, **options):
            asked.append(options)
            raise BadInput("enough")

        monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluate)
        with pytest.raises(BadInput, match="enough"):
            page_of(store, rows=True)
        assert asked == [{"data_root": "/data"}]

    @pytest.mark.parametrize(
        ("given", "asked", "has_interval"),
        [
            ({}, {"test_rows": 40}, True),
            ({"test_rows": 200}, {"test_rows": 200}, False),
            ({"test_rows": 40}, {"test_rows": 40}, True),
        ],
    )
    def test_an_interval_is_over_the_rows_of_the_score(self, given, asked, has_interval, tmp_path, monkeypatch):
        run = made_run(tmp_path / "run", methods=("prompt-tuning",), seeds=1, test_rows=40)
        rows = made_answers(run / "prompt-tuning-seed0", n=asked["test_rows"])
        # Another device may answer a row in another way.
        scored(run / "prompt-tuning-seed0", 0.8)
        calls = []

        def evaluate(prompt, **options):
            calls.append(options)
            return Report({}, len(rows), 0, [], task=find_task("lab/opinion"), answered=lambda: iter(rows), of=1000)

        monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluate)
        page = page_of(run, rows=True, **given)
        assert calls == [asked]
        assert ("over 40 test rows" in page) == has_interval
        assert ("no interval: one seed, and its answers below are to 200 test rows" in page) != has_interval
        # What the rows say of a gain is said of them.
        assert f"on the same {asked['test_rows']} test rows" in page

    def test_text_from_data_stays_text(self, tmp_path):
        run = made_run(tmp_path / "run", task=renamed_task("<script>alert(1)</script>"))
        made_answers(run / "prompt-tuning-seed2")
        page = page_of(run)
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert "<b>bold" not in page

    def test_a_text_that_a_spreadsheet_would_compute_is_downloaded_as_text(self):
        table = Table(caption="", columns=["text", "n"], rows=[{"text": "=1+1", "n": -1}], help={})
        assert table.csv() == "text,n\n'=1+1,-1\n"

    def test_a_carriage_return_in_a_text_ends_no_line_of_a_download(self):
        table = Table(caption="", columns=["text", "n"], rows=[{"text": "a\rb", "n": 1}], help={})
        assert table.csv() == 'text,n\n"a\rb",1\n'

    def test_the_numbers_are_there_to_download(self, tmp_path):
        page = page_of(made_run(tmp_path / "run", difference=(0.2, 0.1, 0.3)))
        files = dict(re.findall(r'download="([^"]*)" href="data:[a-z/]*;base64,([^"]*)"', page))
        assert files.keys() == {"settings.csv", "runs.csv", "report.json"}
        runs = list(csv.DictReader(io.StringIO(base64.b64decode(unquote(files["runs.csv"])).decode())))
        assert [row["test"] for row in runs][:3] == ["0.8", "0.81", "0.8200000000000001"]
        values = json.loads(base64.b64decode(files["report.json"]))
        assert values["headlines"][0]["verdict"] == "better"
        assert values["headlines"][0]["metric"] == "accuracy"
        assert values["runs"][0]["curves"]["loss"]["step"][0] == 1
        assert values["commands"][0].startswith(
            "softprompt train --task lab/opinion --model lab-t5 --method prompt-tun"
        )

    def test_the_command_trains_the_same_prompts(self, tmp_path):
        from softprompt.cli._prompts import PromptGrid

        run = made_run(tmp_path / "run")
        page = page_of(run)
        line = re.search(r"<pre[^>]*>softprompt (train .*ept-star.*)</pre>", re.sub("</?span>", "", page))
        assert line is not None
        from test_docs import parse

        given = parse(line[1].split())
        grid = PromptGrid(method=tuple(given["method"]), seed=tuple(given["seed"]), lr=tuple(given["lr"]))
        trained = grid.prompts(PromptSettings(units=given["units"]))
        assert trained == [entry.run.spec.prompt for entry in read_sources([run]).entries[3:]]
        assert given["steps"] == 40

    def test_confusion_classes_errors_and_calibration_come_from_kept_answers(self, tmp_path):
        run = made_run(tmp_path / "run")
        made_answers(run / "prompt-tuning-seed2")
        page = page_of(run)
        assert all(title in page for title in ("Confusion matrix", "Calibration", "Scores of each class"))
        worst = page.partition("Wrong answers, the surest first")[2]
        assert re.findall(r"row (\d+) &lt;b", worst)[:3] == ["0", "4", "8"]
        unsure = page.partition("The least sure answers")[2]
        assert re.findall(r"row (\d+) &lt;b", unsure)[0] == "39"

    def test_the_gaps_of_the_calibration_curve_add_up_to_the_calibration_error(self, tmp_path):
        rows = made_answers(made_run(tmp_path / "run") / "ept-star-seed0")
        confidence, accuracy, counts = calibration(rows)
        labels = find_task("lab/opinion").labels[:2]
        probabilities = [[row["scores"][label] for label in labels] for row in rows]
        expected = calibration_error(probabilities, [labels.index(row["gold"]) for row in rows])
        assert (counts * abs(accuracy - confidence)).sum() / len(rows) == pytest.approx(expected)

    def test_two_tasks_and_two_models_have_a_headline_each_and_share_no_similarity(self, tmp_path):
        made_run(tmp_path / "runs" / "a", task="lab/opinion", model="lab-t5", seeds=1)
        made_run(tmp_path / "runs" / "b", task="lab/topic", model="lab-gpt", seeds=1, width=6)
        page = page_of(tmp_path / "runs")
        assert page.count('class="headline"') == 2
        assert page.count("Similarity of the vectors") == 2

    def test_a_report_on_stability_is_shown_with_its_comparisons(self, tmp_path):
        from softprompt.store import json_bytes
        from softprompt.study import grid
        from softprompt.study.stability import Arm, report

        specs = {name: grid(task="lab/opinion", model="lab-t5", method=name, seed=0)[0] for name in ("polar", "scaled")}
        arms = {
            name: Arm(name=name, seeds=tuple((s, s, s, s) for s in range(6)), scores=(0.7, 0.72, 0.74, 0.7, 0.71, low),
                      chance=0.5)
            for name, low in (("polar", 0.69), ("scaled", 0.4))
        }  # fmt: skip
        about = {"task": "lab/opinion", "model": "lab-t5", "settings": {n: s.to_json() for n, s in specs.items()}}
        (tmp_path / "stable").mkdir()
        (tmp_path / "stable" / "report.json").write_bytes(json_bytes(report(arms, about=about).to_json()))
        page = page_of(tmp_path / "stable")
        assert "Stability: stable" in page
        assert "Against polar, over the same seeds" in page

    def test_settings_are_drawn_by_their_validation_scores_of_whatever_sign_and_those_without_last(self, tmp_path):
        (first, *_) = settings_of(read_sources([made_run(tmp_path / "run")]).entries)
        scores = {"zero": (0.0, 0.9), "none": (None, None), "minus": (-0.5, 0.1), "tested": (None, 0.5)}
        settings = [
            dataclasses.replace(first, name=name, validation=validation, numbers={**first.numbers, "mean": mean})
            for name, (validation, mean) in scores.items()
        ]
        loss = next(figure for figure in of_settings(Drawer(), settings, []) if figure.title == "Training loss")
        assert [name for name in re.findall(r"\w+", loss.text) if name in scores] == ["tested", "zero", "minus", "none"]

    @pytest.mark.usefixtures("drawn")
    def test_a_majority_class_that_scores_0_is_drawn(self, tmp_path):
        (first, *_) = settings_of(read_sources([made_run(tmp_path / "run", task="glue/cola")]).entries)
        for majority in (0.0, 0.5, None):
            entries = [dataclasses.replace(e, run=dataclasses.replace(e.run, majority=majority)) for e in first.entries]
            (strip, *_) = of_settings(Drawer(), [dataclasses.replace(first, entries=entries)], [])
            assert ("always the same answer" in strip.svg) == (majority is not None)

    def test_step_0_is_the_best_of_a_prompt_that_never_got_better_and_none_is_told_without_a_score(self, tmp_path):
        (entry, *_) = read_sources([made_run(tmp_path / "run", methods=("ept-star",), seeds=1)]).entries
        runs = [dataclasses.replace(entry.run, best_step=0, metrics=metrics) for metrics in (entry.run.metrics, {})]
        rows = runs_table([(dataclasses.replace(entry, run=run), "ept-star") for run in runs]).rows
        assert [row["best step"] for row in rows] == [0, None]

    @pytest.mark.usefixtures("drawn")
    def test_settings_with_long_names_are_numbered_so_that_their_columns_keep_room(self, tmp_path):
        (first, *_) = settings_of(read_sources([made_run(tmp_path / "run")]).entries)
        names = [", ".join(["ept", *(f"option_{line} {number}" for line in range(11))]) for number in range(8)]
        settings = [dataclasses.replace(first, name=name) for name in names]
        (strip, loss, *_) = of_settings(Drawer(), settings, [])
        assert ">(8)<" in strip.svg
        assert ">ept, (8)<" in loss.svg
        # The loss of a head for a number is no nats.
        assert ">loss<" in loss.svg
        assert f"(8) {names[7]}." in strip.caption
        assert "option_1" not in strip.svg + loss.svg + loss.caption

    @pytest.mark.usefixtures("drawn")
    def test_a_landscape_is_drawn_twice_with_the_same_bytes_and_no_address_outside(self, tmp_path):
        (tmp_path / "landscape").mkdir()
        values = {
            "settings": {"space": "input"}, "coordinates": [-1.0, 0.0, 1.0],
            "prompts": [{"prompt": "x", "surface": [[3, 2, 3], [2, 1, 2], [3, 2, 3]]}],
        }  # fmt: skip
        (tmp_path / "landscape" / "landscape.json").write_text(json.dumps(values))
        page = page_of(tmp_path / "landscape")
        assert "Loss around the input: landscape" in page
        assert page == page_of(tmp_path / "landscape")
        assert re.findall(r"""(?:src|href|url\()=?["']?(https?:[^"')]*)""", page) == []

    def test_a_model_of_a_paper_is_shown_beside_its_scores(self, tmp_path):
        page = page_of(made_run(tmp_path / "run", task="glue/sst2", model="google-t5/t5-small"))
        assert "What the paper prints" in page
        assert "0.888" in page


def test_a_run_that_was_compared_keeps_the_comparison(tmp_path):
    from softprompt.training import read_comparison

    run = made_run(tmp_path / "run", difference=(0.2, 0.1, 0.3))
    comparison = read_comparison(run)
    assert comparison is not None
    assert comparison.prompts[0].difference_interval == (0.1, 0.3)
    assert comparison.best.score == 0.6
