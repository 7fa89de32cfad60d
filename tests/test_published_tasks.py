import dataclasses
import gzip
import json
import os
from pathlib import Path

import pytest
from softprompt.cli import main
from softprompt.data import grouped_splits, load_rows, split_rows
from softprompt.data._table import Rows
from softprompt.data.check import check_task
from softprompt.errors import BadInput, UnknownName
from softprompt.tasks import (
    GROUPS,
    OFFICIAL_ROWS,
    TASKS,
    Record,
    Task,
    answer_text,
    class_of,
    gold,
    styled,
    task,
)
from softprompt.tasks._mrqa import questions

from kit import EPT_TASKS

# One row of each task in its hub's columns, written for this test, and the texts that it becomes.
ROWS = {
    "super_glue/copa": (
        {"premise": "P", "choice1": "A", "choice2": "B", "question": "cause"},
        "premise: P choice1: A choice2: B question: cause",
        "copa choice1: A choice2: B premise: P question: cause",
    ),
    "super_glue/rte": ({"premise": "P", "hypothesis": "H"}, "premise: P hypothesis: H", "rte hypothesis: H premise: P"),
    "winogrande/xl": (
        {"sentence": "It _ .", "option1": "a", "option2": "b"},
        "sentence: It _ . option0: a option1: b",
        None,
    ),
    "yelp_polarity": ({"text": "Good."}, "sentence: Good.", None),
    "scitail": ({"premise": "P", "hypothesis": "H"}, "premise: P hypothesis: H", None),
    "paws": ({"sentence1": "A", "sentence2": "B"}, "sentence1: A sentence2: B", None),
    "mrqa/nq": ({"question": "Q?", "context": "C."}, "question: Q? context: C.", "question: Q? context: C."),
}


def lines(path: Path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def test_the_papers_21_tasks_are_known_by_name():
    assert len(EPT_TASKS) == len(set(EPT_TASKS)) == 21
    assert set(EPT_TASKS) < set(TASKS)
    assert len(GROUPS["fewglue"]) == 7


@pytest.mark.parametrize("name", ROWS)
def test_templates_are_attempts_without_prefix_and_t5s(name):
    row, plain, t5 = ROWS[name]
    assert task(name).render(row).text == plain
    if t5 is None:
        with pytest.raises(BadInput, match="has no T5 template"):
            styled(task(name), "t5")
    else:
        assert styled(task(name), "t5").render(row).text == t5


@pytest.mark.parametrize("name", [name for name in TASKS if not TASKS[name].source.world])
def test_json_brings_every_published_task_back(name):
    assert Task.from_json(json.loads(json.dumps(task(name).to_json()))) == task(name)


def test_a_task_of_before_has_the_json_that_it_had():
    """Studies made before hash these values, so no later field may appear in them."""
    values = task("glue/sst2").to_json()
    later = {"window", "stride", "train", "test", "layout", "where", "grouped"}
    assert not later & {*values, *values["source"]}
    assert values["source"]["validation"] == "validation"


def test_winogrande_counts_its_options_from_one_and_its_classes_from_zero():
    assert [class_of(task("winogrande/m"), value) for value in ("1", "2", 1, 2)] == [0, 1, 0, 1]


def test_scitails_classes_are_its_words():
    assert [class_of(task("scitail"), value) for value in ("entails", "neutral")] == [0, 1]


def test_a_set_with_test_rows_and_without_validation_rows_holds_the_latter_out(tmp_path):
    """Yelp-2 in small: appendix B.1's numbers are for sets of 10,000 rows and more, a tenth for smaller ones."""
    folder = tmp_path / "yelp_polarity/plain_text"
    lines(folder / "train.jsonl.gz", *({"text": f"t{n}", "label": n % 2} for n in range(12_000)))
    lines(folder / "test.jsonl.gz", *({"text": f"u{n}", "label": n % 2} for n in range(30)))
    yelp = task("yelp_polarity")
    splits = split_rows(yelp, load_rows(yelp, tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (11_000, 1_000, 30)


def test_a_set_with_all_three_splits_keeps_them(tmp_path):
    folder = tmp_path / "scitail/tsv_format"
    for split, count in (("train", 12), ("validation", 4), ("test", 5)):
        rows = ({"premise": f"{split}{n}", "hypothesis": "h", "label": "neutral"} for n in range(count))
        lines(folder / f"{split}.jsonl.gz", *rows)
    scitail = task("scitail")
    splits = split_rows(scitail, load_rows(scitail, tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 4, 5)


def test_fewglue_is_tested_on_superglues_validation_rows(tmp_path):
    row = {"premise": "p", "hypothesis": "h", "label": 0}
    lines(tmp_path / "fewglue/cb/train.jsonl.gz", *[row] * 3)
    lines(tmp_path / "fewglue/cb/dev32.jsonl.gz", *[row] * 2)
    lines(tmp_path / "super_glue/cb/validation.jsonl.gz", *[row] * 5)
    cb = task("fewglue/cb")
    splits = split_rows(cb, load_rows(cb, tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3, 2, 5)


def test_fewglue_without_a_data_root_says_that_it_needs_one():
    with pytest.raises(BadInput, match=r"'fewglue/cb' is not on the hub; give a folder with 'fewglue/cb'"):
        load_rows(task("fewglue/cb"))


ASKED = [{"question": "Who?", "answers": ["Ann", "Ann B"]}, {"question": "Where?", "answers": ["Rome"]}]


def test_mrqas_own_lines_become_one_row_a_question():
    header, context = {"header": {"dataset": "SQuAD"}}, {"context": "Ann is in Rome.", "qas": ASKED}
    found = list(questions([Record(1, header), Record(2, context)]))
    assert [record.line for record in found] == [2, 2]
    assert [record.values["question"] for record in found] == ["Who?", "Where?"]
    assert gold(task("mrqa/squad"), found[0].values) == ["Ann", "Ann B"]
    flat = Record(3, {"context": "C", "question": "Q", "answers": ["A"]})
    assert list(questions([flat])) == [flat]


def test_a_question_list_that_is_none_is_a_malformed_row():
    (record,) = questions([Record(2, {"context": "C", "qas": "Who?"})])
    assert record.fault == "column 'qas' is no list of questions"


def test_squads_development_set_is_cut_by_context(tmp_path):
    contexts = [{"context": f"c{n}", "qas": ASKED} for n in range(20)]
    lines(tmp_path / "mrqa/squad/validation.jsonl.gz", {"header": {}}, *contexts)
    squad = task("mrqa/squad-dev")
    splits = split_rows(squad, load_rows(squad, tmp_path))
    parts = [set(part.columns["context"]) for part in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert len(splits.test) == 4


def test_three_groups_at_least_are_needed():
    with pytest.raises(BadInput, match="2 values in column 'context' are too few"):
        grouped_splits({"train": Rows({"context": ["a", "a", "b"]})}, "context")


def test_a_column_and_a_layout_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(UnknownName, match=r"unknown column 'contxt'\. Did you mean 'context'"):
        grouped_splits({"train": Rows({"context": ["a", "b", "c"]})}, "contxt")
    declared = task("glue/sst2")
    (tmp_path / declared.source.folder).mkdir(parents=True)
    for split in ("train", "validation"):
        (tmp_path / declared.source.folder / f"{split}.jsonl").write_text("{}")
    declared = dataclasses.replace(declared, source=dataclasses.replace(declared.source, layout="mrqaa"))
    with pytest.raises(UnknownName, match=r"unknown layout of rows 'mrqaa'\. Did you mean 'mrqa'"):
        load_rows(declared, tmp_path)


def test_official_sizes_are_of_known_tasks():
    assert set(OFFICIAL_ROWS) <= set(TASKS)


def test_a_check_tells_sizes_shares_and_leaks(tmp_path):
    def rows(*labels):
        return [{"premise": f"p{n}", "hypothesis": "h h", "label": label} for n, label in enumerate(labels)]

    lines(tmp_path / "super_glue/cb/train.jsonl.gz", *rows(0, 0, 1, 2))
    lines(tmp_path / "super_glue/cb/validation.jsonl.gz", *rows(0, 1), {"premise": "q", "hypothesis": "h", "label": 0})
    found = check_task(task("super_glue/cb"), tmp_path, lambda text: 300 if "p0" in text else 5)
    assert found.rows == {"train": 4, "validation": 3}
    assert found.official == {"train": 250, "validation": 56}
    assert found.labels == {"entailment": 0.5, "contradiction": 0.25, "neutral": 0.25}
    assert (found.overlap, found.too_long, found.is_complete) == (2, 0.25, False)


def test_a_check_of_a_task_that_is_not_there_says_why(tmp_path):
    found = check_task(task("paws"), tmp_path)
    assert found.rows == {}
    assert not found.is_complete
    assert "no file" in found.fault


def test_a_check_of_rows_that_cannot_be_read_goes_on_and_says_that_they_are_there(tmp_path, capsys):
    for name, content in (("glue/sst2", "text,label\nx,1\n"), ("glue/cola", "sentence,label\nx,1\ny,good\n")):
        (tmp_path / name).mkdir(parents=True)
        for split in ("train", "validation"):
            (tmp_path / name / f"{split}.csv").write_text(content)
    command = ["tasks", "check", "glue/sst2", "glue/cola", "paws", "--data-root", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    column, label, absent = map(json.loads, capsys.readouterr().out.splitlines())
    unknown = "unknown column 'sentence'. Known: label, text."
    assert column["faults"] == {
        split: f"{tmp_path / 'glue/sst2' / split}.csv: {unknown}" for split in ("train", "validation")
    }
    assert column["fault"] == column["faults"]["train"]
    for split in ("train", "validation"):
        assert label["faults"][split].endswith(f"{split}.csv:3: label 'good' is not one of 0, 1; repair")
    assert [check["is_there"] for check in (column, label, absent)] == [True, True, False]
    assert main(command) == 0
    assert capsys.readouterr().out.count("unusable") == 2


def test_a_check_tells_of_each_split_that_is_missing_and_counts_the_others(tmp_path, capsys):
    lines(tmp_path / "yelp_polarity/plain_text/test.jsonl.gz", *({"text": f"t{n}", "label": n % 2} for n in range(6)))
    lines(tmp_path / "mrqa/squad/validation.jsonl.gz", {"header": {}}, {"context": "Ann is in Rome.", "qas": ASKED})
    lines(tmp_path / "scitail/tsv_format/train.jsonl.gz", {"premise": "p", "hypothesis": "h", "gold_label": "entails"})
    yelp, squad, scitail = (check_task(task(name), tmp_path) for name in ("yelp_polarity", "mrqa/squad", "scitail"))
    assert (yelp.rows, list(yelp.faults), yelp.overlap) == ({"test": 6}, ["train"], None)
    assert yelp.is_there
    assert not yelp.is_complete
    assert (squad.rows, list(squad.faults)) == ({"validation": 2}, ["train"])
    # One split that is there and cannot be read, and two that are not there.
    assert (scitail.rows, list(scitail.faults)) == ({}, ["train", "validation", "test"])
    assert "Did you mean 'gold_label'" in scitail.faults["train"]
    assert scitail.is_there
    names = ["yelp_polarity", "mrqa/squad", "scitail", "paws"]
    assert main(["tasks", "check", *names, "--data-root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert [printed.count(state) for state in ("without train", "unusable", "not found")] == [2, 1, 1]


def test_the_command_checks_tasks_by_name(tmp_path, capsys):
    lines(tmp_path / "fewglue/cb/train.jsonl.gz", {"premise": "p", "hypothesis": "h", "label": 0})
    assert main(["tasks", "check", "fewglue/cb", "paws", "--data-root", str(tmp_path), "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "dev32" in first["fault"]
    assert second["task"] == "paws"


@pytest.mark.skipif(not os.environ.get("SOFTPROMPT_DATA_ROOT"), reason="needs real rows in SOFTPROMPT_DATA_ROOT")
@pytest.mark.parametrize("name", ["super_glue/copa", "super_glue/wsc", "fewglue/wic", "mrqa/squad-dev"])
def test_real_rows_are_those_of_the_published_sets(name):
    assert check_task(task(name), os.environ["SOFTPROMPT_DATA_ROOT"]).is_complete


def test_the_style_compat_repeats_what_earlier_code_does_and_nothing_else():
    row = {"sentence": "the _ did not fit", "option1": "trophy", "option2": "case", "answer": "2"}
    wrong, right = (styled(task("winogrande/xs"), style) for style in ("compat", "numeric"))
    assert wrong.render(row).text == "sentence: the _ did not fit option0: trophy option1: trophy"
    assert right.render(row).text == "sentence: the _ did not fit option0: trophy option1: case"
    assert wrong.labels == right.labels == ("0", "1")
    rounded = [answer_text(styled(task("glue/stsb"), style), 3.47) for style in ("compat", "numeric")]
    assert rounded == ["3.5", "3.4"]
    # One style for a study over several tasks: where nothing is known of earlier code, it is the numeric one.
    for name in ("glue/rte", "super_glue/multirc", "super_glue/cb"):
        other, numeric = (styled(task(name), style) for style in ("compat", "numeric"))
        assert dataclasses.replace(other, style="numeric") == numeric
