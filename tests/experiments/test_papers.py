"""The papers as studies: every file declares its runs at each scale, and published numbers stand beside ours."""

import dataclasses
import functools
import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
from softprompt.data import load_rows
from softprompt.errors import BadInput, UnknownName
from softprompt.prompts.methods import METHODS
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import (
    RunSpec,
    StoredRun,
    chosen,
    load_specs,
    markdown,
    other_settings,
    summary,
    with_chosen,
    with_reference,
    without_number,
)
from softprompt.study._early import check_waiting
from softprompt.study._file import parsed
from softprompt.study._reference import PUBLISHED
from softprompt.tasks import TASKS

STUDIES = Path(__file__).parents[2] / "experiments"
FILES = sorted([*STUDIES.glob("ept/*.toml"), *STUDIES.glob("ptp/*.toml")])
AT_SCALES = [(path, scale) for path in FILES for scale in (None, *parsed(path)["scales"])]
DATA_ROOT = os.environ.get("SOFTPROMPT_DATA_ROOT")
DOCUMENT = json.loads((PUBLISHED / "ept.json").read_text())
REFERENCE = DOCUMENT["tables"]
DAMAGED = "damaged in the copy of the paper that was read"
# What was added up for the paper's means.
GROUPS = {
    "glue": ("glue/",),
    "super_glue": ("super_glue/",),
    "mrqa": ("mrqa/",),
    "others": ("winogrande/", "yelp_polarity", "scitail", "paws"),
    "the four": ("",),
}
BY = ("model", "task", "method")


def run(task: str, method: str, score: float | None, seed: int = 0, model: str = "google-t5/t5-base") -> StoredRun:
    spec = RunSpec(
        task=task,
        model=model,
        prompt=PromptSettings(method=method, seeds=Seeds.all(seed)),
        settings=TrainSettings(steps=1),
    )
    return ended(spec, score)


def ended(spec: RunSpec, score: float | None, validation: float | None = None) -> StoredRun:
    metrics = {} if score is None else {"test": {"score": score}, "validation": {"score": validation}}
    return StoredRun(
        name=spec.name, spec=spec, metrics=metrics, majority=0.5, best_step=1, trainable=1, head=0, stored=1,
        seconds=1.0, status="finished", curve={},
    )  # fmt: skip


@pytest.mark.parametrize("scale", [None, "real", "lab"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_declares_runs_at_every_scale(path: Path, scale: str | None):
    specs = load_specs(path, scale)
    assert specs
    if scale == "lab":
        assert len({spec.name for spec in specs}) == len(specs)
        # PET reads a mask, which only an encoder has.
        assert {spec.model for spec in specs if spec.answers == "auto"} == {"lab-t5-small"}
        assert {spec.model for spec in specs if spec.answers == "label-words"} <= {"lab-bert"}
        assert all(spec.declared.name.startswith("lab/") for spec in specs)
    if scale == "real":
        assert {spec.model for spec in specs} == {"smollm2"}


@functools.cache
def is_at_hand(name: str) -> bool:
    try:
        return bool(load_rows(TASKS[name], DATA_ROOT))
    except BadInput:
        return False


@pytest.mark.skipif(not DATA_ROOT, reason="SOFTPROMPT_DATA_ROOT is not set")
@pytest.mark.parametrize(("path", "scale"), AT_SCALES, ids=lambda part: getattr(part, "stem", part))
def test_no_run_is_refused_before_training_where_the_rows_are_at_hand(path: Path, scale: str | None, tmp_path: Path):
    """What a run needs of its task: enough rows of each class, a template of the style, steps for its warm-up."""
    # Sources are another study's prompts, which are not there.
    specs = sorted((s for s in load_specs(path, scale) if not s.prompt.sources), key=lambda spec: spec.declared.name)
    one_of_each = {(spec.declared.name, spec.style, spec.settings): spec for spec in specs}
    waiting = list(one_of_each.values())
    if scale is None:
        # The papers' models and some of their tasks are not at hand.
        found = [spec for spec in waiting if is_at_hand(spec.declared.name)]
        waiting = [dataclasses.replace(spec, model="lab-t5-small") for spec in found]
    check_waiting(tmp_path / "store", waiting, DATA_ROOT)


def test_a_scale_takes_the_place_of_defaults_and_of_every_table(tmp_path: Path):
    path = tmp_path / "study.toml"
    path.write_text(
        '[defaults]\nmodel = "big"\nsteps = 9\n[[runs]]\ntask = "lab/color"\nsteps = 7\n[[runs]]\ntask = "lab/day"\n'
        '[scales.small]\nmodel = "lab-t5"\nsteps = 3\n[scales.other]\n[[scales.other.runs]]\ntask = "lab/topic"\n'
    )
    assert [(s.model, s.settings.steps) for s in load_specs(path)] == [("big", 7), ("big", 9)]
    assert [(s.model, s.settings.steps) for s in load_specs(path, "small")] == [("lab-t5", 3)] * 2
    assert [s.declared.name for s in load_specs(path, "other")] == ["lab/topic"]
    with pytest.raises(UnknownName, match="small"):
        load_specs(path, "smal")


def test_the_scale_paper_is_the_file_as_it_is_written_unless_it_has_one_of_that_name(tmp_path: Path):
    path = STUDIES / "ept" / "table1.toml"
    assert [spec.name for spec in load_specs(path, "paper")] == [spec.name for spec in load_specs(path)]
    own = tmp_path / "study.toml"
    own.write_text('[[runs]]\ntask = "lab/color"\nmodel = "m"\n')
    assert [spec.model for spec in load_specs(own, "paper")] == ["m"]
    own.write_text(f'{own.read_text()}[scales.paper]\nmodel = "other"\n')
    assert [spec.model for spec in load_specs(own, "paper")] == ["other"]


def test_the_protocol_of_the_paper_is_the_scale_that_nobody_chose():
    specs = load_specs(STUDIES / "ept" / "table1.toml")
    assert {spec.settings.steps for spec in specs} == {30000}
    assert {spec.settings.batch_size for spec in specs} == {16}
    assert {spec.prompt.seeds.initialization for spec in specs} == {0, 1, 2}
    few = load_specs(STUDIES / "ept" / "table3.toml")
    assert {(spec.settings.steps, spec.settings.shots) for spec in few} == {(10000, k) for k in (4, 16, 32)}


def test_cells_of_the_reference_name_known_tasks_and_methods():
    cells = [cell for table in REFERENCE.values() for cell in table["cells"]]
    assert {cell["task"] for cell in cells} <= set(TASKS)
    # ATTEMPT and the adapters are methods that other parts of the package may lack.
    assert {cell["method"] for cell in cells} - set(METHODS) <= {"adapter", "adapter-drop", "attempt", "spot"}
    assert all(cell["value"] is None or 0 <= cell["value"] <= 100 for cell in cells)


@pytest.mark.parametrize("name", [name for name, table in REFERENCE.items() if table["cells"]])
def test_published_means_are_those_of_the_published_cells(name: str):
    """A check of the copy: one wrong digit in a cell would show in its mean."""
    cells = defaultdict(list)
    for cell in REFERENCE[name]["cells"]:
        for group, begins in GROUPS.items():
            if cell["task"].startswith(begins):
                cells[(cell["model"], cell["method"], cell.get("init"), group)].append(cell["value"])
    for mean in REFERENCE[name]["means"]:
        values = cells[(mean["model"], mean["method"], mean.get("init"), mean["tasks"])]
        if None not in values:
            assert sum(values) / len(values) == pytest.approx(mean["value"], abs=0.11)


def test_a_row_has_the_published_number_and_the_difference_from_it():
    path = STUDIES / "ept" / "table1.toml"
    runs = [run("glue/rte", "ept", score, seed) for seed, score in enumerate((0.70, 0.72))]
    runs += [run("glue/rte", "ept", 0.7, model="lab-t5"), run("lab/color", "ept", 0.9)]
    rows = with_reference(summary(runs, BY), runs, BY, path)
    assert rows[0]["paper"] == pytest.approx(0.688)
    assert rows[0]["difference"] == pytest.approx(0.71 - 0.688)
    assert [(row["paper"], row["difference"]) for row in rows[1:]] == [(None, None)] * 2


def test_a_row_over_tasks_has_the_mean_of_its_cells_or_none():
    path = STUDIES / "ept" / "table1.toml"
    runs = [run(task, "ept", 0.5) for task in ("glue/rte", "glue/mrpc")]
    (row,) = with_reference(summary(runs, ("method",)), runs, ("method",), path)
    assert row["paper"] == pytest.approx((0.688 + 0.829) / 2)
    runs.append(run("lab/color", "ept", 0.5))
    (row,) = with_reference(summary(runs, ("method",)), runs, ("method",), path)
    assert row["paper"] is None


def test_a_cell_counts_once_whatever_the_number_of_its_runs():
    path = STUDIES / "ept" / "table1.toml"
    runs = [run("glue/rte", "ept", 0.688, seed) for seed in range(5)] + [run("glue/mrpc", "ept", 0.829)]
    (row,) = with_reference(summary(runs, ("method",)), runs, ("method",), path)
    assert row["difference"] == pytest.approx(0)
    # One that is half done has no difference of another mean.
    runs[-1] = run("glue/mrpc", "ept", None)
    (row,) = with_reference(summary(runs, ("method",)), runs, ("method",), path)
    assert (row["paper"], row["difference"]) == (pytest.approx((0.688 + 0.829) / 2), None)


def test_a_tag_that_only_some_runs_have_is_a_column():
    path, by = STUDIES / "ept" / "table1.toml", ("method", "part")
    runs = [run("glue/rte", "ept", 0.7), run("glue/rte", "ept", 0.8, 1)]
    runs[1] = dataclasses.replace(runs[1], spec=dataclasses.replace(runs[1].spec, tags={"part": "core"}))
    rows = with_reference(summary(runs, by), runs, by, path)
    assert [row["paper"] for row in rows] == [pytest.approx(0.688)] * 2


@pytest.mark.parametrize("table", [{}, [], {"cells": 3}, {"cells": [3]}, {"cells": [{"value": "90"}]}, {"cells": [{}]}])
def test_a_reference_without_cells_is_named(table: object, tmp_path: Path):
    (tmp_path / "own.json").write_text(json.dumps({"tables": {"a": table}}))
    path = tmp_path / "study.toml"
    path.write_text('reference = "own.json#a"\n[[runs]]\ntask = "lab/color"\nmodel = "m"\n')
    with pytest.raises(BadInput, match=r"table 'a' of .*own\.json holds no `cells`"):
        with_reference([], [], BY, path)


def test_a_damaged_cell_has_its_label_and_neither_it_nor_a_run_without_a_score_a_difference():
    path = STUDIES / "ept" / "table2.toml"
    runs = [run("mrqa/nq", "ept-star", 0.5), run("scitail", "ept-star", None)]
    rows = with_reference(summary(runs, BY), runs, BY, path)
    assert [(row["paper"], row["difference"]) for row in rows] == [(DAMAGED, None), (None, None)]
    damaged = [number for part in ("cells", "means") for number in REFERENCE["table2"][part] if number["value"] is None]
    assert [number.get("task") for number in damaged] == [
        "mrqa/nq", "mrqa/hotpotqa", "mrqa/searchqa", "mrqa/newsqa", "winogrande/xl", "yelp_polarity", None
    ]  # fmt: skip
    assert {number["label"] for number in damaged} == {DAMAGED}
    # Nor has a mean of which it is a part, where the mean itself is not printed.
    runs = [run(task, "ept-star", 0.5) for task in DOCUMENT["groups"]["mrqa"]]
    for rows in (with_reference(summary(runs, by), runs, by, path)[-1:] for by in (BY, ("method",))):
        assert [(row["mean"], row["paper"], row["difference"]) for row in rows] == [(0.5, DAMAGED, None)]
    runs = [run(task, "ept-star", 0.5) for task in DOCUMENT["groups"]["others"]]
    assert with_reference(summary(runs, BY), runs, BY, path)[-1]["paper"] == pytest.approx(0.796)


def test_the_groups_are_the_tasks_whose_mean_is_printed():
    for table in REFERENCE.values():
        for group in {mean["tasks"] for mean in table["means"]}:
            tasks = {cell["task"] for cell in table["cells"] if cell["task"].startswith(GROUPS[group])}
            assert set(DOCUMENT["groups"][group]) == tasks or not table["cells"]
    few = {spec.declared.name for spec in load_specs(STUDIES / "ept" / "table3.toml")}
    assert few == {*DOCUMENT["groups"]["glue"], *DOCUMENT["groups"]["super_glue"]}


def test_every_mean_of_table_3_stands_beside_the_mean_of_its_group():
    path = STUDIES / "ept" / "table3.toml"
    specs = load_specs(path)
    runs = [ended(spec, len(spec.declared.name) / 100) for spec in specs]
    by = ("method", "shots")
    rows = with_reference(summary(runs, by), runs, by, path, specs=specs)
    assert [(row["task"], row["paper"]) for row in rows[:18]] == [(None, None)] * 18
    found = {(row["method"], row["shots"], row["task"]): row for row in rows[18:]}
    assert len(found) == len(rows) - 18 == 36
    for mean in REFERENCE["table3"]["means"]:
        row = found[mean["method"], mean["shots"], f"Avg {mean['tasks']}"]
        tasks = DOCUMENT["groups"][mean["tasks"]]
        ours = sum(map(len, tasks)) / 100 / len(tasks)
        assert (row["n"], row["mean"]) == (6 * len(tasks), pytest.approx(ours))
        assert row["paper"] == pytest.approx(mean["value"] / 100)
        assert row["difference"] == pytest.approx(ours - mean["value"] / 100)
    assert markdown(rows).splitlines()[0].startswith("| method | shots | task | n | mean |")
    rows = with_reference(summary(runs, ("task", *by)), runs, ("task", *by), path)
    assert [row["paper"] for row in rows[:-36]] == [None] * 13 * 18
    assert all(row["task"].startswith("Avg") and row["paper"] for row in rows[-36:])


def test_a_row_of_just_the_tasks_of_a_group_is_beside_its_published_mean():
    path, by = STUDIES / "ept" / "table6.toml", ("init",)
    runs = [ended(spec, 0.7) for spec in load_specs(path)]
    rows = with_reference(summary(runs, by), runs, by, path)
    assert {row["init"]: (row["n"], row["paper"]) for row in rows} == {
        "uniform": (12, 0.71), "vocabulary": (12, pytest.approx(0.716)), "label-words": (12, pytest.approx(0.704))
    }  # fmt: skip
    assert len(rows) == 3


def test_the_mean_of_a_group_weighs_tasks_alike_and_is_printed_only_if_all_tasks_are_there():
    path, by = STUDIES / "ept" / "table1.toml", ("model", "task", "method")
    runs = [run(task, "ept", 0.4) for task in DOCUMENT["groups"]["super_glue"]]
    runs += [run("super_glue/cb", "ept", 0.9, seed) for seed in (1, 2, 3, 4)]
    rows = with_reference(summary(runs, by), runs, by, path)
    assert [row["task"] for row in rows if row["task"].startswith("Avg")] == ["Avg super_glue"]
    assert rows[-1]["mean"] == pytest.approx((4 * 0.4 + 0.8) / 5)
    assert rows[-1]["paper"] == pytest.approx(0.672)
    for left in (runs[1:], [dataclasses.replace(runs[0], metrics={}), *runs[1:]]):
        rows = with_reference(summary(left, by), left, by, path)
        assert not [row for row in rows if row["task"].startswith("Avg")]


class TestOfOneChoice:
    """Of the rates of SuperGLUE in table 1 the paper prints the one that was best on validation rows."""

    PATH = STUDIES / "ept" / "table1.toml"
    TASKS = ("super_glue/boolq", "super_glue/cb", "glue/rte")

    @pytest.fixture
    def specs(self) -> list[RunSpec]:
        return [s for s in load_specs(self.PATH) if s.model == "google-t5/t5-base" and s.declared.name in self.TASKS]

    @pytest.fixture
    def runs(self, specs: list[RunSpec]) -> list[StoredRun]:
        """On validation rows .03 is best for BoolQ and .1 for CB; on test rows .003 is for both."""
        best = {"super_glue/boolq": 0.03, "super_glue/cb": 0.1}
        return [
            ended(
                spec,
                0.9 if spec.prompt.lr == 0.003 else 0.6,
                0.5 + 0.2 * (spec.prompt.lr == best.get(spec.declared.name)),
            )
            for spec in specs
            if spec.prompt.method == "ept"
        ]

    @pytest.mark.parametrize("by", [("task", "method"), ("task", "method", "lr"), ("method",), ("method", "lr")])
    def test_no_number_stands_beside_a_mean_over_rates_or_beside_each_of_them(self, specs, runs, by):
        rows = with_reference(summary(runs, by), runs, by, self.PATH, specs=specs)
        numbers = {row.get("task", ""): row["paper"] for row in rows}
        assert numbers.pop("glue/rte", 0.688) == pytest.approx(0.688)
        assert set(numbers.values()) <= {None}
        line = without_number(specs, self.PATH)
        assert line
        assert line.startswith("no published number stands beside runs that differ in lr:")
        assert line.endswith("give --best lr")

    def test_one_rate_of_which_alone_runs_are_stored_is_none_that_was_chosen(self, specs, runs):
        only = [run for run in runs if run.spec.prompt.lr == 0.3]
        rows = with_reference(summary(only, BY), only, BY, self.PATH, specs=specs)
        assert {row["task"] for row in rows if row["paper"] is None} == {"super_glue/boolq", "super_glue/cb"}

    def test_the_rate_is_chosen_by_validation_for_each_task_and_the_papers_number_stands_beside_it(self, specs, runs):
        kept, unchosen = chosen(runs, ["lr"], specs)
        assert unchosen == []
        rows = with_chosen(summary(kept, BY), kept, BY, ["lr"])
        rows = with_reference(rows, kept, BY, self.PATH, specs=specs, best=["lr"])
        assert {row["task"]: (row["lr"], row["n"], row["mean"], row["paper"]) for row in rows} == {
            "glue/rte": (0.3, 3, pytest.approx(0.6), pytest.approx(0.688)),
            "super_glue/boolq": (0.03, 3, pytest.approx(0.6), pytest.approx(0.755)),
            "super_glue/cb": (0.1, 3, pytest.approx(0.6), pytest.approx(0.731)),
        }
        assert without_number(specs, self.PATH, ["lr"]) is None
        # So it is where rows are over tasks.
        (row,) = with_chosen(summary(kept, ("method",)), kept, ("method",), ["lr"])
        assert row["lr"] == "0.03, 0.1, 0.3"
        (row,) = with_reference([row], kept, ("method",), self.PATH, specs=specs, best=["lr"])
        assert row["paper"] == pytest.approx((0.688 + 0.755 + 0.731) / 3)

    def test_runs_of_other_steps_than_the_papers_are_told(self, specs):
        assert other_settings(specs, self.PATH) is None
        shorter = [dataclasses.replace(s, settings=dataclasses.replace(s.settings, steps=400)) for s in specs[:1]]
        line = other_settings([*shorter, *specs[1:]], self.PATH)
        assert line == "the published numbers are of steps 30000; these runs have steps 400 or 30000"
        # At lab scale no published number stands beside a run, so there is nothing to tell.
        assert other_settings(load_specs(self.PATH, scale="lab"), self.PATH) is None

    def test_a_mean_over_tasks_is_none_of_the_papers_where_a_rate_is_open(self):
        specs = [s for s in load_specs(self.PATH) if s.model == "google-t5/t5-base" and s.prompt.method == "ept"]
        runs = [ended(spec, 0.6, spec.prompt.lr) for spec in specs]
        rows = with_reference(summary(runs, BY), runs, BY, self.PATH, specs=specs)
        averages = {row["task"]: row["paper"] for row in rows if row["task"].startswith("Avg")}
        assert averages == {"Avg glue": pytest.approx(0.733), "Avg super_glue": None}
        kept, _ = chosen(runs, ["lr"], specs)
        rows = with_reference(summary(kept, BY), kept, BY, self.PATH, specs=specs, best=["lr"])
        averages = {row["task"]: (row["lr"], row["paper"]) for row in rows if row["task"].startswith("Avg")}
        assert averages == {"Avg glue": (0.3, pytest.approx(0.733)), "Avg super_glue": (0.3, pytest.approx(0.672))}


def test_a_study_without_a_reference_keeps_its_rows():
    runs = [run("glue/rte", "ept", 0.7)]
    rows = summary(runs, BY)
    assert with_reference(rows, runs, BY, STUDIES / "ept" / "fig5.toml") == rows


@pytest.mark.parametrize(
    ("reference", "message"),
    [("ept.json", "give a file and its table"), ("no.json#a", "cannot read"), ("bad.json#a", "holds no tables")],
)
def test_a_reference_that_cannot_be_read_is_named(reference: str, message: str, tmp_path: Path):
    (tmp_path / "bad.json").write_text("[]")
    path = tmp_path / "study.toml"
    path.write_text(f'reference = "{reference}"\n[[runs]]\ntask = "lab/color"\nmodel = "m"\n')
    with pytest.raises(BadInput, match=message):
        with_reference([], [], BY, path)


@pytest.mark.parametrize("means", [3, [{"value": 1}], [{"value": "1", "tasks": "a"}], [{"value": 1, "tasks": "b"}]])
def test_a_reference_with_means_of_no_group_is_named(means: object, tmp_path: Path):
    tables = {"a": {"cells": [], "means": means}}
    (tmp_path / "own.json").write_text(json.dumps({"tables": tables, "groups": {"a": ["lab/color"]}}))
    path = tmp_path / "study.toml"
    path.write_text('reference = "own.json#a"\n[[runs]]\ntask = "lab/color"\nmodel = "m"\n')
    with pytest.raises(BadInput, match=r"table 'a' of .*own\.json holds `means` that are not all numbers"):
        with_reference([], [], BY, path)


def test_every_table_of_the_paper_that_has_cells_is_named_by_its_file():
    named = [path.read_text() for path in FILES if path.stem.startswith("table")]
    assert {table for table in REFERENCE if any(f'ept.json#{table}"' in text for text in named)} == set(REFERENCE)
