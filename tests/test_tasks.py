import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from softprompt.errors import BadInput, UnknownName
from softprompt.inference.answers import parse
from softprompt.tasks import (
    GROUPS,
    TASKS,
    Source,
    Task,
    TaskNames,
    answer_text,
    class_of,
    custom_task,
    gold,
    styled,
    task,
    with_difficulty,
)
from softprompt.tasks._prepare import mark_spans, mark_spans_in_any_case, strip_tags

from kit import EPT_TASKS

WSC = {
    "text": "Mr. Bond saw the dog when he came .",
    "span1_index": 0,
    "span1_text": "Mr. Bond",
    "span2_index": 6,
    "span2_text": "he",
}
# One row of each task in its hub's columns, written for this test.
ROWS = {
    "glue/cola": ({"sentence": "A b."}, "sentence: A b.", "cola sentence: A b."),
    "glue/sst2": ({"sentence": "fine "}, "sentence: fine ", "sst2 sentence: fine "),
    "glue/mrpc": (
        {"sentence1": "A", "sentence2": "B"},
        "sentence1: A sentence2: B",
        "mrpc sentence1: A sentence2: B",
    ),
    "glue/rte": (
        {"sentence1": "A", "sentence2": "B"},
        "sentence1: A sentence2: B",
        "rte sentence1: A sentence2: B",
    ),
    "glue/stsb": (
        {"sentence1": "A", "sentence2": "B"},
        "sentence1: A sentence2: B",
        "stsb sentence1: A sentence2: B",
    ),
    "glue/qqp": (
        {"question1": "A?", "question2": "B?"},
        "question1: A? question2: B?",
        "qqp question1: A? question2: B?",
    ),
    "glue/qnli": (
        {"question": "A?", "sentence": "B"},
        "question: A? sentence: B",
        "qnli question: A? sentence: B",
    ),
    "glue/mnli": (
        {"premise": "A", "hypothesis": "B"},
        "premise: A hypothesis: B",
        "mnli hypothesis: B premise: A",
    ),
    "super_glue/cb": (
        {"premise": "A", "hypothesis": "B"},
        "premise: A hypothesis: B",
        "cb hypothesis: B premise: A",
    ),
    "super_glue/boolq": (
        {"question": "Q", "passage": "P"},
        "question: Q passage: P",
        "boolq passage: P question: Q",
    ),
    "super_glue/wic": (
        {"sentence1": "A", "sentence2": "B", "word": "w"},
        "sentence1: A sentence2: B word: w",
        "wic sentence1: A sentence2: B word: w",
    ),
    "super_glue/multirc": (
        {"question": "Q", "answer": "A", "paragraph": "<b>S 1: </b>x<br>y"},
        "question: Q answer: A paragraph: S 1: x y",
        "multirc question: Q answer: A paragraph: S 1: x y",
    ),
    "super_glue/wsc.fixed": (
        WSC,
        "text: * Mr. Bond * saw the dog when # he # came .",
        "wsc text: * Mr. Bond * saw the dog when # he # came .",
    ),
}
WORDS = {
    "glue/cola": "unacceptable acceptable",
    "glue/sst2": "negative positive",
    "glue/mrpc": "not_equivalent equivalent",
    "glue/rte": "entailment not_entailment",
    "glue/stsb": "",
    "glue/qqp": "not_duplicate duplicate",
    "glue/qnli": "entailment not_entailment",
    "glue/mnli": "entailment neutral contradiction",
    "super_glue/cb": "entailment contradiction neutral",
    "super_glue/boolq": "False True",
    "super_glue/wic": "False True",
    "super_glue/multirc": "False True",
    "super_glue/wsc.fixed": "False True",
}


def write_csv(path: Path, *rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def labelled(path: Path, *labels):
    return write_csv(path, ["text", "label"], *[["words", label] for label in labels])


def test_importing_tasks_and_metrics_does_not_import_torch():
    code = "import sys, softprompt.tasks, softprompt.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 0


# The thirteen tasks of the paper's table 1; tests/test_published_tasks.py holds the others.
PUBLISHED = {name: TASKS[name] for name in ROWS}


def test_the_papers_thirteen_tasks_are_declared_in_two_groups():
    assert set(EPT_TASKS[:13]) == set(ROWS)
    assert set(GROUPS["glue"]) < set(ROWS)
    assert len(set(GROUPS["super_glue"]) & set(ROWS)) == 5
    assert [name for names in GROUPS.values() for name in names] == list(TASKS)


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown task 'glue/sst'\. Did you mean 'glue/sst2'"):
        task("glue/sst")


@pytest.mark.parametrize("name", ROWS)
class TestEveryTask:
    def test_template_is_the_papers_without_prefix(self, name):
        row, text, _ = ROWS[name]
        assert task(name).render(row).text == text

    def test_t5_style_is_t5s_prefix_and_key_order(self, name):
        row, _, text = ROWS[name]
        assert styled(task(name), "t5").render(row).text == text

    def test_class_words_are_t5s_in_the_hubs_label_order(self, name):
        assert task(name).labels == tuple(WORDS[name].split())
        assert styled(task(name), "t5").labels == task(name).labels

    def test_numeric_style_keeps_the_template_and_counts_the_labels(self, name):
        numeric = styled(task(name), "numeric")
        assert numeric.labels == tuple("012"[: len(task(name).labels)])
        assert numeric.template == task(name).template

    def test_spans_hold_exactly_the_columns(self, name):
        row, _, _ = ROWS[name]
        rendered = task(name).render(row)
        prepared = task(name).prepared(row)
        assert {c: rendered.text[a:b] for c, (a, b) in rendered.spans.items()} == {
            c: prepared[c] for c in task(name).columns
        }

    def test_json_brings_the_task_back(self, name):
        assert Task.from_json(json.loads(json.dumps(task(name).to_json()))) == task(name)


def test_questions_words_and_hypotheses_are_never_cut():
    cut = {name: set(t.shortened) for name, t in TASKS.items()}
    assert cut["super_glue/boolq"] == {"passage"}
    assert cut["super_glue/multirc"] == {"paragraph"}
    assert cut["super_glue/cb"] == cut["glue/mnli"] == {"premise"}
    assert cut["super_glue/wic"] == {"sentence1", "sentence2"}
    assert cut["glue/qnli"] == {"sentence"}
    assert cut["glue/rte"] == {"sentence1"}


def test_headline_scores_are_the_papers():
    scores = {name: t.scores for name, t in PUBLISHED.items()}
    assert scores.pop("super_glue/cb") == ("macro-f1", "accuracy")
    assert scores.pop("glue/cola") == ("matthews",)
    assert scores.pop("glue/stsb") == ("pearson",)
    assert scores.pop("super_glue/multirc") == ("f1a",)
    assert set(scores.values()) == {("accuracy",)}


def test_input_length_is_256_and_348_for_multirc():
    assert {t.max_length for t in PUBLISHED.values() if t.name != "super_glue/multirc"} == {256}
    assert task("super_glue/multirc").max_length == 348


def test_styles_do_not_pile_up():
    numeric = styled(task("glue/sst2"), "numeric")
    assert styled(numeric, "numeric") == numeric
    with pytest.raises(BadInput, match="already in style 'numeric'"):
        styled(numeric, "t5")
    with pytest.raises(UnknownName, match=r"unknown style 'number'\. Did you mean 'numeric'"):
        styled(numeric, "number")


@pytest.mark.parametrize(
    ("text", "first", "second", "marked"),
    [
        # The index counts words, whatever stands at that character; a mark shifts only what follows it.
        ("a a a b", ("a", 1), ("b", 3), "a * a * a # b #"),
        ("x he saw x", ("x", 3), ("he", 1), "x # he # saw * x *"),
        ("he (that is) left", ("(that is)", 1), ("he", 0), "# he # * (that is) * left"),
        ("one two", ("two", 0), ("one", 1), "one two"),
    ],
)
def test_spans_are_marked_at_their_word_index(text, first, second, marked):
    spans = {"span1_text": first[0], "span1_index": first[1], "span2_text": second[0], "span2_index": second[1]}
    assert mark_spans({"text": text, **spans})["text"] == marked


@pytest.mark.parametrize(
    ("first", "second", "marked"),
    [
        (("The table", 2), ("It", 5), "put on * the table * as # it # stood"),
        (("A table", 2), ("it", 5), "put on the table as # it # stood"),
        (("The table", 2), ("He", 5), "put on * the table * as it stood"),
    ],
)
def test_spans_of_another_case_are_marked_and_one_that_is_not_there_moves_no_other(first, second, marked):
    spans = {"span1_text": first[0], "span1_index": first[1], "span2_text": second[0], "span2_index": second[1]}
    row = {"text": "put on the table as it stood", **spans}
    assert mark_spans_in_any_case(row)["text"] == marked
    # Prompts that were trained before read the rows as they did.
    assert mark_spans(row)["text"] == row["text"]


def test_a_span_index_that_is_no_number_is_refused():
    with pytest.raises(BadInput, match="span indices count words, 'x' and 6 do not"):
        mark_spans({**WSC, "span1_index": "x"})


@pytest.mark.parametrize("name", WSC)
def test_a_row_without_a_span_is_named(name):
    with pytest.raises(UnknownName, match=f"unknown column '{name}'"):
        mark_spans({column: value for column, value in WSC.items() if column != name})


def test_blanks_around_a_label_word_are_no_part_of_it(tmp_path):
    (tmp_path / "a.csv").write_text("q,a\nx,0\ny,1\n")
    made = custom_task(tmp_path / "a.csv", text_columns=["q"], label_column="a", label_words=[" no", "yes "])
    assert made.labels == ("no", "yes")
    assert [parse(made, answer) for answer in ("yes", "no", "maybe")] == [1, 0, -1]
    # A prompt that was stored with them.
    before = dataclasses.replace(made, labels=(" no", "yes "))
    assert [parse(before, answer) for answer in ("yes", "no", "maybe")] == [1, 0, -1]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"text": ["Denver"]}, "holds a dict, text is needed; a field of an object is a column of its own, as a.text"),
        ([{"text": "Denver"}], "holds a dict"),
        ([None, "Denver"], "holds an empty answer"),
        (["Denver", float("nan")], "holds an empty answer"),
    ],
)
def test_an_accepted_text_is_a_text(given, what, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "where?", "a": ["Denver"]}\n')
    qa = custom_task(tmp_path / "a.jsonl", text_columns=["q"], target_column="a")
    assert gold(qa, {"a": ["Denver", 5]}) == ["Denver", "5"]
    with pytest.raises(BadInput, match=f"column 'a' {what}"):
        gold(qa, {"a": given})


def test_tags_become_blanks_or_vanish_and_other_columns_stay():
    row = {"paragraph": "<b>Sent 1: </b>A.<br>B<i>", "label": 1}
    assert strip_tags(row) == {"paragraph": "Sent 1: A. B<i>", "label": 1}


def test_preparing_leaves_the_row_alone():
    row = dict(WSC)
    task("super_glue/wsc.fixed").render(row)
    assert row == WSC


@pytest.mark.parametrize(
    ("value", "written"),
    [(3.8, "3.8"), (5.0, "5.0"), (2.75, "2.8"), (0.0, "0.0"), (1.667, "1.6"), (4.91, "5.0"), (2.5, "2.4")],
)
def test_a_number_is_written_to_the_nearest_fifth(value, written):
    """T5's stsb: round(5 x) / 5 with one decimal; 2.5 lies between 2.4 and 2.6 and goes to the even fifth."""
    assert answer_text(task("glue/stsb"), value) == written


def test_a_class_is_found_by_value_or_by_its_text():
    boolq = task("super_glue/boolq")
    assert [class_of(boolq, value) for value in (0, 1, "0", "1", True, 1.0)] == [0, 1, 0, 1, 1, 1]


def test_a_label_outside_the_known_is_named_with_them():
    with pytest.raises(BadInput, match="label 7 is not one of 0, 1"):
        class_of(task("glue/sst2"), 7)
    with pytest.raises(BadInput, match="label -1 marks an unlabelled row"):
        class_of(task("glue/sst2"), -1)


def test_gold_is_a_class_a_number_or_accepted_texts(tmp_path):
    qa = custom_task(tmp_path / "x.jsonl", text_columns=["q"], target_column="a")
    assert gold(task("glue/sst2"), {"label": "1"}) == 1
    assert gold(task("glue/stsb"), {"label": "3.25"}) == 3.25
    assert gold(qa, {"a": "Paris"}) == ["Paris"]
    assert gold(qa, {"a": ["Paris", "paris"]}) == ["Paris", "paris"]
    assert answer_text(qa, ["Paris", "paris"]) == "Paris"


@pytest.mark.parametrize("value", [None, "", [], "nan", "often"])
def test_gold_refuses_what_is_no_number(value):
    with pytest.raises(BadInput, match=r"column 'label' (is empty|holds)"):
        gold(task("glue/stsb"), {"label": value})


def test_gold_names_a_missing_column():
    with pytest.raises(UnknownName, match=r"unknown column 'label'\. Did you mean 'labels'"):
        gold(task("glue/sst2"), {"labels": 1})


def test_render_names_missing_and_empty_columns():
    with pytest.raises(UnknownName, match=r"unknown column 'sentence'\. Did you mean 'sentences'"):
        task("glue/sst2").render({"sentences": "x"})
    with pytest.raises(BadInput, match="column 'sentence' is empty"):
        task("glue/sst2").render({"sentence": None})


@pytest.mark.parametrize(("template", "what"), [("{text", "expected '}'"), ("{text:>9}", "format after {text}")])
def test_a_template_that_does_not_parse_is_refused(tmp_path, template, what):
    with pytest.raises(BadInput, match=what):
        custom_task(labelled(tmp_path / "x.csv", 0, 1), template=template, label_column="label")


class TestCustomTask:
    def test_label_words_are_the_sorted_labels(self, tmp_path):
        made = custom_task(
            labelled(tmp_path / "a.csv", "pos", "neg", "pos"), text_columns=["text"], label_column="label"
        )
        assert made.labels == made.label_values == ("neg", "pos")
        assert made.name == "custom/a"
        assert made.metrics == ("accuracy", "macro-f1")

    def test_whole_numbers_are_sorted_as_numbers(self, tmp_path):
        made = custom_task(labelled(tmp_path / "a.csv", 10, 9, 1), text_columns=["text"], label_column="label")
        assert made.labels == ("1", "9", "10")

    @pytest.mark.parametrize(
        ("labels", "words"), [([True, False], ("False", "True")), ([2.0, 1], ("1", "2")), (["b", 1], ("1", "b"))]
    )
    def test_json_labels_of_any_type_become_words(self, tmp_path, labels, words):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(json.dumps({"text": "x", "label": label}) for label in labels))
        made = custom_task(path, text_columns=["text"], label_column="label")
        assert made.labels == words
        assert len({type(value) for value in made.label_values}) == 1
        assert sorted(class_of(made, label) for label in labels) == [0, 1]

    def test_words_are_given_by_label_or_in_order(self, tmp_path):
        path = labelled(tmp_path / "a.csv", 0, 1)
        by_label = custom_task(path, text_columns=["text"], label_column="label", label_words={1: "good", 0: "bad"})
        in_order = custom_task(path, text_columns=["text"], label_column="label", label_words=["bad", "good"])
        assert by_label.labels == in_order.labels == ("bad", "good")

    @pytest.mark.parametrize(
        ("words", "what"),
        [
            (["a", " "], "the label word of '1' is empty"),
            (["a", "a "], "label word 'a' of '0' is also another label's"),
            (["a"], "for 2 labels"),
            ({"0": "a"}, "no label word for '1'"),
            ({"0": "a", "2": "b"}, "unknown label '2'"),
        ],
    )
    def test_unusable_label_words_are_refused(self, tmp_path, words, what):
        path = labelled(tmp_path / "a.csv", 0, 1)
        with pytest.raises((BadInput, UnknownName), match=what):
            custom_task(path, text_columns=["text"], label_column="label", label_words=words)

    def test_one_label_or_none_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match="one label only, 'a'"):
            custom_task(labelled(tmp_path / "a.csv", "a", "a"), text_columns=["text"], label_column="label")
        with pytest.raises(BadInput, match="holds no labelled rows"):
            custom_task(labelled(tmp_path / "b.csv"), text_columns=["text"], label_column="label")

    def test_free_text_in_the_label_column_is_noticed(self, tmp_path):
        path = labelled(tmp_path / "a.csv", *range(501))
        with pytest.raises(BadInput, match=r"a\.csv:502: more than 500 labels"):
            custom_task(path, text_columns=["text"], label_column="label")

    def test_one_column_stands_alone_and_several_are_named(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", ["p", "h", "y"], ["x", "z", "0"], ["x", "z", "1"])
        assert custom_task(path, text_columns=["p"], label_column="y").template == "{p}"
        assert custom_task(path, text_columns=["p", "h"], label_column="y").template == "p: {p} h: {h}"

    def test_an_answer_column_is_needed_and_never_shown(self, tmp_path):
        path = labelled(tmp_path / "a.csv", 0, 1)
        with pytest.raises(BadInput, match="give one answer column"):
            custom_task(path, text_columns=["text"])
        with pytest.raises(BadInput, match="give one answer column"):
            custom_task(path, text_columns=["text"], label_column="label", target_column="text")
        with pytest.raises(BadInput, match="column 'label' is the answer"):
            custom_task(path, text_columns=["text", "label"], label_column="label")

    def test_misspelt_columns_and_splits_are_named(self, tmp_path):
        path = labelled(tmp_path / "a.csv", 0, 1)
        with pytest.raises(UnknownName, match=r"unknown column 'lable'\. Did you mean 'label'"):
            custom_task(path, text_columns=["text"], label_column="lable")
        with pytest.raises(UnknownName, match=r"unknown split 'valid'\. Did you mean 'validation'"):
            custom_task({"train": path, "valid": path}, text_columns=["text"], label_column="label")
        said = (
            r"lacks \{text\} of `text_columns` and reads \{txt\}, which is none of the columns \(text, label\); write"
        )
        with pytest.raises(BadInput, match=said):
            custom_task(path, text_columns=["text"], template="{txt} is", label_column="label")
        with pytest.raises(UnknownName, match=r"unknown column 'txt'\. Did you mean 'text'"):
            custom_task(path, text_columns=["txt"], template="{text}", label_column="label")
        rows = [{"text": "a", "title": "b", "label": label} for label in "xy"]
        with pytest.raises(BadInput, match=r"'\{text\}' lacks \{title\} of `text_columns`; write \{title\} into it$"):
            custom_task(rows, text_columns=["title"], template="{text}", label_column="label")

    def test_text_targets_are_scored_as_squad(self, tmp_path):
        made = custom_task(tmp_path / "a.csv", text_columns=["q"], target_column="a")
        assert (made.answer, made.metrics) == ("text", ("squad-f1", "exact-match"))
        with pytest.raises(BadInput, match="label words go with `label_column`"):
            custom_task(tmp_path / "a.csv", text_columns=["q"], target_column="a", label_words=["x", "y"])

    def test_json_brings_the_task_back(self, tmp_path):
        made = custom_task(labelled(tmp_path / "a.csv", 0, 1), text_columns=["text"], label_column="label")
        assert Task.from_json(json.loads(json.dumps(made.to_json()))) == made


class TestNamesOfTasks:
    def names(self, *tasks: Task) -> list[str]:
        called = TaskNames(tasks)
        return [called.of(each) for each in tasks]

    def test_equal_tasks_have_one_name_also_after_they_were_stored(self):
        color = task("lab/color")
        again = Task.from_json(json.loads(json.dumps(color.to_json())))
        assert self.names(color, again, task("lab/day")) == ["lab/color", "lab/color", "lab/day"]

    def test_what_differs_is_told_rows_before_words(self):
        color = task("lab/color")
        hard = with_difficulty(color, noise=6)
        assert self.names(color, hard) == ["lab/color", "lab/color (noise=6)"]
        assert self.names(hard, with_difficulty(color, noise=2, train=8)) == [
            "lab/color (noise=6)", "lab/color (noise=2, train=8)"
        ]  # fmt: skip
        other = dataclasses.replace(color, template="Look: {passage}")
        assert self.names(color, other) == ["lab/color (template={passage})", "lab/color (template=Look: {passage})"]

    def test_no_two_tasks_share_a_name(self):
        tasks = [dataclasses.replace(task("lab/color"), template=f"{'x' * 50} {n} {{passage}}") for n in range(3)]
        assert len(set(self.names(*tasks))) == 3

    def test_files_are_told_apart_by_the_shortest_end_of_their_paths(self):
        tasks = [Task(name="r", source=Source(files={"train": f"{at}.csv"}), template="{t}") for at in ("a/r", "b/r")]
        assert self.names(*tasks) == ["r (a/r.csv)", "r (b/r.csv)"]
        # From wherever a file is named, it is one.
        whole = dataclasses.replace(tasks[0], source=Source(files={"train": os.path.abspath("a/r.csv")}))
        assert self.names(tasks[0], whole) == ["r", "r"]

    def test_what_settings_of_a_run_make_of_a_task_is_no_difference(self):
        sst2 = task("glue/sst2")
        assert self.names(sst2, dataclasses.replace(sst2, opening_ids=(1, 2), max_length=64)) == [sst2.name, sst2.name]
