"""What a report finds in folders, and what of it is one task, one setting, one name."""

import json
from pathlib import Path

import pytest
from softprompt.backbones import from_model
from softprompt.documents import sealed_bytes
from softprompt.errors import BadInput
from softprompt.reports._commands import commands
from softprompt.reports._page import render
from softprompt.reports._settings import settings_of
from softprompt.reports._sources import read_sources
from softprompt.settings import PromptSettings, Seeds
from softprompt.store import json_bytes
from softprompt.study import RunSpec, StoredRun, grid
from softprompt.study._stored import path_of, to_bytes
from softprompt.study.stability import Arm, report
from softprompt.tasks import Source, custom_task, styled, with_difficulty
from softprompt.tasks import task as find_task
from softprompt.training import train

from report_kit import made_run, made_store

COLOR = find_task("lab/color")
HARD = with_difficulty(COLOR, noise=6)
ALONE = {"methods": ("ept-star",), "seeds": 1}


def shown(*paths: Path) -> list[tuple[str, str, int]]:
    """Task, name and number of runs of each setting."""
    settings = settings_of(read_sources(paths).entries)
    return [(setting.key[0], setting.name, setting.numbers["n"]) for setting in settings]


def reviews(folder: Path) -> Path:
    folder.mkdir()
    (folder / "reviews.csv").write_text("text,label\na,x\nb,y\n")
    return folder / "reviews.csv"


def landscape(folder: Path, height: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    surface = [[3, 2, 3], [2, height, 2], [3, 2, 3]]
    values = {"coordinates": [-1.0, 0.0, 1.0], "prompts": [{"prompt": "x", "surface": surface}]}
    (folder / "landscape.json").write_bytes(json_bytes(values))
    return folder


def stability(folder: Path, task=COLOR, **scores: float) -> Path:
    folder.mkdir(parents=True)
    specs = {name: grid(task=task, model="lab-t5", method=name, seed=0)[0] for name in ("polar", "scaled")}
    arms = {
        name: Arm(name=name, seeds=tuple((s, s, s, s) for s in range(2)), scores=(0.7, scores.get(name, 0.7)),
                  chance=0.5)
        for name in specs
    }  # fmt: skip
    about = {"task": task.name, "model": "lab-t5", "settings": {name: spec.to_json() for name, spec in specs.items()}}
    (folder / "report.json").write_bytes(json_bytes(report(arms, about=about).to_json()))
    return folder


class TestTasks:
    def test_tasks_of_one_name_on_other_rows_are_apart_and_their_commands_have_the_options(self, tmp_path):
        made_run(tmp_path / "easy", task=COLOR, **ALONE)
        made_run(tmp_path / "hard", task=HARD, **ALONE)
        assert shown(tmp_path) == [("lab/color", "ept-star", 1), ("lab/color (noise=6)", "ept-star", 1)]
        lines = [line for each in settings_of(read_sources([tmp_path]).entries) for line in commands(each)]
        assert ["--task-option noise=6" in line for line in lines] == [False, True]

    def test_a_single_task_keeps_its_name(self, tmp_path):
        assert shown(made_run(tmp_path / "hard", task=HARD, **ALONE)) == [("lab/color", "ept-star", 1)]

    def test_the_files_of_two_users_are_two_tasks(self, tmp_path):
        for name in "ab":
            task = custom_task(str(reviews(tmp_path / name)), text_columns=["text"], label_column="label")
            made_run(tmp_path / "runs" / name, task=task, **ALONE)
        assert [task for task, *_ in shown(tmp_path / "runs")] == [
            "custom/reviews (a/reviews.csv)", "custom/reviews (b/reviews.csv)"
        ]  # fmt: skip

    def test_a_file_that_changed_between_runs_is_told_of(self, tmp_path):
        task = custom_task(str(reviews(tmp_path / "a")), text_columns=["text"], label_column="label")
        (tmp_path / "store" / "runs").mkdir(parents=True)
        for seed, spec in enumerate(grid(task=task, model="lab-t5", method="ept", seed=[0, 1])):
            run = StoredRun.without_result(
                spec, {"test": {"score": 0.5}}, "finished", inputs={"/reviews.csv": str(seed)}
            )
            path_of(tmp_path / "store", spec.name).write_bytes(to_bytes(run))
        (note,) = read_sources([tmp_path / "store"]).notes
        assert note.startswith("/reviews.csv had other contents for ept-seed")
        assert all(f"ept-seed{seed}-" in note for seed in (0, 1))

    def test_a_file_that_changed_between_plain_runs_is_told_of(self, tiny_t5, tmp_path):
        rows = reviews(tmp_path / "a")
        named = {"text_column": "text", "label_column": "label", "steps": 1, "prompt_length": 2, "with_frozen": False}
        backbone = from_model(*tiny_t5("t5"), name="tiny")

        def trained(seed: int, words: str) -> None:
            rows.write_text("text,label\n" + "".join(f"{words} {n},{'yes' if n % 2 else 'no'}\n" for n in range(20)))
            train(rows, backbone, seeds=[seed], output=tmp_path / "runs" / str(seed), **named)

        for seed in (0, 1):
            trained(seed, "good")
        assert read_sources([tmp_path / "runs"]).notes == []
        trained(2, "bad")
        (note,) = read_sources([tmp_path / "runs"]).notes
        assert f"{rows} had other contents for 2/prompt-tuning-seed2 than for 0/prompt-tuning-seed0" in note
        # As an earlier version wrote it.
        plan = tmp_path / "runs" / "2" / "run.json"
        values = {
            name: value for name, value in json.loads(plan.read_text()).items() if name not in ("files", "sha256")
        }
        plan.write_bytes(sealed_bytes(values))
        assert read_sources([tmp_path / "runs"]).notes == []

    def test_other_words_for_the_same_rows_are_other_settings(self, tmp_path):
        task = find_task("glue/sst2")
        made_run(tmp_path / "words", task=task, **ALONE)
        made_run(tmp_path / "t5", task=styled(task, "t5"), **ALONE)
        assert shown(tmp_path) == [("glue/sst2", "style=t5", 1), ("glue/sst2", "style=words", 1)]

    def test_scores_without_training_are_those_of_the_same_rows(self, tmp_path):
        store = tmp_path / "store"
        (store / "runs").mkdir(parents=True)
        for number, task in enumerate((COLOR, HARD)):
            spec = RunSpec(task=task, model="lab-t5", prompt=PromptSettings(seeds=Seeds.all(0)))
            run = StoredRun(
                name=spec.name, spec=spec, metrics={"test": {"score": 0.5}}, majority=0.2, best_step=1, trainable=1,
                head=0, stored=1, seconds=1.0, status="finished", curve={},
            )  # fmt: skip
            path_of(store, spec.name).write_bytes(to_bytes(run))
            line = {"name": "frozen", "score": 0.1 + number / 10, "interval": None, "predictions": [0], "text": "",
                    "draw": None, "calibrated": None}  # fmt: skip
            about = {"task": spec.numbers()["task"], "model": "lab-t5"}
            (store / "baselines").mkdir(exist_ok=True)
            (store / "baselines" / f"{number}.json").write_bytes(
                sealed_bytes({"format": 2, **about, "baselines": [line]})
            )
        untrained = read_sources([store]).untrained
        assert {key[0]: lines[0].score for key, lines in untrained.items()} == {
            "lab/color": 0.1, "lab/color (noise=6)": 0.2
        }  # fmt: skip

    def test_scores_without_training_are_of_as_many_test_rows_as_those_of_the_runs(self, tmp_path):
        store = tmp_path / "store"
        (store / "runs").mkdir(parents=True)
        (store / "baselines").mkdir()
        for number, test_rows in enumerate((None, 40)):
            (spec,) = grid(task=COLOR, model="lab-t5", method="ept", seed=0, test_rows=test_rows)
            run = StoredRun.without_result(spec, {"test": {"score": 0.5}}, "finished")
            path_of(store, spec.name).write_bytes(to_bytes(run))
            line = {"name": "frozen", "score": 0.1 + number / 10, "interval": None, "predictions": [0], "text": "",
                    "draw": None, "calibrated": None}  # fmt: skip
            about = {name: spec.numbers()[name] for name in ("task", "model", "settings")}
            (store / "baselines" / f"{number}.json").write_bytes(
                sealed_bytes({"format": 2, **about, "baselines": [line]})
            )
        sources = read_sources([store])
        scores = {entry.run.spec.settings.test_rows: sources.untrained[entry.scored_on] for entry in sources.entries}
        assert {rows: lines[0].score for rows, lines in scores.items()} == {None: 0.1, 40: 0.2}


class TestFolders:
    def searched(self, folder: Path) -> Path:
        """A search of two folds: its trials, its choice, and what it reports."""
        folder.mkdir()
        (folder / "tune.json").write_text("{}")

        def run(place: str, fold: int, test: str, seed: int) -> None:
            rows = folder / "rows"
            files = {"train": f"{rows}/{fold}/train.jsonl", "test": f"{rows}/{test}"}
            task = custom_task([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], text_columns=["text"],
                               label_column="label", name="custom/r")  # fmt: skip
            task = type(task)(**{**vars(task), "source": Source(files=files)})
            made_run(folder / place / f"fold-{fold}", task=task, methods=("ept-star",), seeds=1, initialization=seed)

        run("waves/000", 0, "0/glance.jsonl", 0)
        run("choice/1", 0, "0/glance.jsonl", 0)
        for fold in (0, 1):
            run("report/winner", fold, "report.jsonl", 10 + fold)
        return folder

    @pytest.mark.parametrize("above", [False, True])
    def test_of_a_search_only_what_it_reports_is_shown_over_all_its_folds(self, above, tmp_path):
        search = self.searched(tmp_path / "search")
        assert shown(tmp_path if above else search) == [("custom/r", "ept-star", 2)]

    def test_a_file_of_ones_own_beside_runs_hides_none_of_them(self, tmp_path):
        made_run(tmp_path / "runs" / "first", **ALONE)
        (tmp_path / "runs" / "notes.json").write_text("{}")
        sources = read_sources([tmp_path])
        assert [entry.label for entry in sources.entries] == ["ept-star-seed0"]
        assert sources.notes == []

    def test_in_a_store_only_files_that_are_called_like_a_run_are_runs(self, tmp_path):
        store = made_store(tmp_path / "store", count=4)
        (store / "runs" / "notes.json").write_text("{}")
        sources = read_sources([store])
        assert (len(sources.entries), sources.notes) == (4, [])

    def test_runs_of_one_name_are_told_apart_by_the_folders_above(self, tmp_path):
        for name in "ab":
            made_run(tmp_path / name / "run", task=COLOR if name == "a" else HARD, **ALONE)
        labels = [entry.label for entry in read_sources([tmp_path]).entries]
        assert labels == ["a/run/ept-star-seed0", "b/run/ept-star-seed0"]

    def test_two_landscapes_and_two_reports_of_one_name_are_all_shown(self, tmp_path):
        for name, score in (("a", 0.1), ("b", 0.9)):
            landscape(tmp_path / name / "landscape", score)
            stability(tmp_path / name / "stable", task=COLOR if name == "a" else HARD, polar=score)
        sources = read_sources([tmp_path])
        assert list(sources.landscapes) == ["a/landscape", "b/landscape"]
        assert list(sources.stabilities) == ["a/stable", "b/stable"]
        means = {entry.key[0]: [] for entry in sources.entries}
        for entry in sources.entries:
            if entry.run.spec.prompt.method == "polar":
                means[entry.key[0]].append(entry.run.score)
        assert means == {"lab/color": [0.7, 0.1], "lab/color (noise=6)": [0.7, 0.9]}


class TestForeignDocuments:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("landscape.json", {"a": 1}),
            ("landscape.json", {"coordinates": [0.0, 1.0], "prompts": [{"prompt": "x", "surface": [[1.0, 2.0]]}]}),
            ("report.json", {"spreads": 1}),
            ("report.json", {"spreads": [], "about": {}, "comparisons": [{"setting": "a"}]}),
            ("report.json", {"spreads": [], "about": {"settings": {"a": {"b": 1}}}, "arms": {"a": {"seeds": []}}}),
            ("report.json", {"spreads": [], "about": {"runs": [1]}}),
        ],
    )
    def test_what_is_no_report_or_landscape_is_left_out_and_named(self, name, content, tmp_path):
        made_run(tmp_path / "run", **ALONE)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / name).write_text(json.dumps(content))
        sources = read_sources([tmp_path])
        (note,) = sources.notes
        assert note.startswith(f"{tmp_path / 'other'} is left out: ")
        assert "What to know first" in render(sources)
        with pytest.raises(BadInput, match="is left out"):
            read_sources([tmp_path / "other"])
