"""The lab's world: its passages say what its facts are, its splits share nothing, its rows are always the same."""

import itertools
import json
from collections import Counter
from random import Random

import pytest
from softprompt.data import load_rows, split_rows
from softprompt.errors import BadInput, UnknownName
from softprompt.tasks import GROUPS, TASKS, Task, with_difficulty
from softprompt.world import ATTRIBUTES, KINDS, MIX, Difficulty, question, rows, split_of, vocabulary
from softprompt.world._passages import draw_facts, write_passage
from softprompt.world._statements import FORMS, statement
from softprompt.world._words import COLORS, ITEMS, LARGE, NAMES, PLACES, PRAISE

LAB = GROUPS["lab"]
SMALL_TASK = {"train": 60, "validation": 20, "test": 20}


def read_back(text: str) -> dict[str, str]:
    """The facts of a passage, by looking for its words: a reader that knows nothing of how it was told."""
    words = text.replace(".", " ").split()

    def only(known: tuple[str, ...] | dict[str, str]) -> str:
        return next(word for word in words if word in known)

    praised = (any(word in PRAISE for word in words)) != ("not" in words or "nobody" in words)
    found = {name: only(ATTRIBUTES[name]) for name in ("color", "object", "place", "number", "thing", "buyer", "day")}
    past = {"was", "found", "bought", "ordered", "took"} & set(words)
    return found | {
        "tense": "past" if past else "present",
        "size": "big" if any(word in LARGE for word in words) else "small",
        "opinion": "good" if praised else "bad",
        "topic": ITEMS[only(ITEMS)],
        "side": PLACES[found["place"]],
        "gender": NAMES[found["buyer"]],
    }


def test_a_passage_tells_all_of_its_facts():
    draw = Random(0)
    for _ in range(500):
        facts = draw_facts(draw)
        assert read_back(write_passage(draw, facts).text) == {name: facts[name] for name in ATTRIBUTES}


def test_fillers_and_noise_tell_nothing():
    draw = Random(1)
    for _ in range(200):
        facts = draw_facts(draw)
        hard = write_passage(draw, facts, fillers=2, noise=5)
        # A filler may stand in the past, whatever the passage's own tense is.
        told = {name: value for name, value in read_back(hard.text).items() if name != "tense"}
        assert told == {name: facts[name] for name in told}


def test_difficulty_adds_the_sentences_and_words_that_are_asked_for():
    draw = Random(2)
    facts = draw_facts(draw)
    for fillers, noise in itertools.product((0, 1, 3), (0, 4)):
        text = write_passage(draw, facts, fillers=fillers, noise=noise).text
        assert text.count(".") == 3 + fillers
        words = len(write_passage(draw, facts, fillers=fillers, noise=noise).text.split())
        assert words >= 3 * 5 + 4 * fillers + noise


def test_a_statement_follows_exactly_if_all_it_says_is_so():
    draw = Random(3)
    for form, attributes in FORMS * 40:
        facts = draw_facts(draw)
        sentence, follows = statement(draw, facts, form, attributes)
        assert (sentence == form.format(**facts)) == follows


def test_wanted_facts_are_given_and_those_that_follow_fit():
    draw = Random(4)
    for attribute, values in ATTRIBUTES.items():
        for value in values:
            facts = draw_facts(draw, {attribute: value})
            assert facts[attribute] == value
            assert (ITEMS[facts["item"]], PLACES[facts["place"]], NAMES[facts["buyer"]]) == (
                facts["topic"], facts["side"], facts["gender"],
            )  # fmt: skip


def test_every_word_is_in_the_vocabulary():
    draw, words = Random(5), set(vocabulary())
    assert len(words) == len(vocabulary()) < 260
    for kind in KINDS:
        for _ in range(100):
            asked = question(draw, kind)
            assert set(f"{asked.whole} {asked.answer}".split()) <= words
    for name in LAB:
        task = with_difficulty(TASKS[name], **SMALL_TASK, fillers=1, noise=2)
        for row in load_rows(task)["train"].to_list():
            assert set(task.render(row).text.split()) <= words
        assert {word for label in task.labels for word in label.split()} <= words


def test_label_words_and_lists_are_answered_from_the_passage():
    draw = Random(6)
    for _ in range(400):
        asked = question(draw, "label-words")
        _, yes, _, value, _, no, _ = asked.instruction.split()
        if value in ATTRIBUTES["color"] + ATTRIBUTES["place"] + ATTRIBUTES["day"]:
            assert asked.answer == (yes if value in asked.text.split() else no)
        asked = question(draw, "membership")
        listed = set(asked.instruction.split()) - {"is", "it", "or", ":"}
        if listed & {*ATTRIBUTES["color"], *ATTRIBUTES["buyer"], *ATTRIBUTES["thing"]}:
            assert asked.answer == ("yes" if listed & set(asked.text.split()) else "no")


@pytest.mark.parametrize("kind", ["membership", "label-words", "entailment", "same"])
def test_two_way_questions_have_both_answers_equally_often(kind: str):
    draw = Random(7)
    if kind == "label-words":
        answers = Counter((asked := question(draw, kind)).answer == asked.instruction.split()[1] for _ in range(2000))
    else:
        answers = Counter(question(draw, kind).answer for _ in range(2000))
    assert len(answers) == 2
    assert min(answers.values()) > 900


def test_the_mix_asks_every_kind():
    assert set(MIX) == set(KINDS)
    assert sum(MIX.values()) == pytest.approx(1)


def test_there_are_five_families_and_at_least_twelve_tasks():
    assert {TASKS[name].source.world for name in LAB} == {"attribute", "membership", "entailment", "same", "several"}
    assert len(LAB) >= 12


@pytest.mark.parametrize("name", LAB)
class TestEveryLabTask:
    def test_its_rows_are_the_same_whenever_they_are_made(self, name: str):
        task = with_difficulty(TASKS[name], **SMALL_TASK)
        assert [list(r) for r in load_rows(task).values()] == [list(r) for r in load_rows(task).values()]
        other = load_rows(with_difficulty(task, seed=1))
        assert list(load_rows(task)["train"]) != list(other["train"])

    def test_it_survives_json(self, name: str):
        task = with_difficulty(TASKS[name], noise=1)
        again = Task.from_json(json.loads(json.dumps(task.to_json())))
        assert again == task
        small = with_difficulty(again, **SMALL_TASK), with_difficulty(task, **SMALL_TASK)
        assert list(load_rows(small[0])["test"]) == list(load_rows(small[1])["test"])

    def test_no_passage_is_in_two_splits(self, name: str):
        task = with_difficulty(TASKS[name], **SMALL_TASK)
        for split, found in load_rows(task).items():
            for row in found.to_list():
                for column in ("passage", "first", "second"):
                    assert column not in row or split_of(row[column]) == split

    def test_its_rows_are_as_many_as_asked_all_different_and_of_each_label_about_as_many(self, name: str):
        sizes = {"train": 800, "validation": 100, "test": 200}
        task = with_difficulty(TASKS[name], **sizes)
        splits = {split: rows_of_split.to_list() for split, rows_of_split in load_rows(task).items()}
        assert {split: len(rows_of_split) for split, rows_of_split in splits.items()} == sizes
        texts = [task.render(row).text for rows_of_split in splits.values() for row in rows_of_split]
        assert len(set(texts)) == len(texts)
        if task.labels:
            counts = Counter(row["answer"] for row in splits["train"])
            assert set(counts) == set(task.label_values)
            assert min(counts.values()) > 0.65 * sizes["train"] / len(task.labels)


def test_a_task_has_as_many_rows_as_the_documentation_says():
    found = load_rows(TASKS["lab/color"])
    assert {split: len(r) for split, r in found.items()} == {"train": 4000, "validation": 500, "test": 1000}


def test_splits_given_by_the_lab_are_kept():
    task = with_difficulty(TASKS["lab/color"], **SMALL_TASK)
    splits = split_rows(task, load_rows(task))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (60, 20, 20)


def test_pretraining_sees_training_passages_only():
    draw = Random(8)
    for _ in range(200):
        assert split_of(question(draw, "attribute").text) == "train"
        assert split_of(question(draw, "attribute", split="test").text) == "test"


def test_label_noise_changes_that_share_of_the_training_answers_and_no_other():
    plain = {split: list(rows("attribute", split, {"attribute": "color"})) for split in ("train", "test")}
    options = {"attribute": "color", "label_noise": 0.4}
    noisy = {split: list(rows("attribute", split, options)) for split in ("train", "test")}
    assert noisy["test"] == plain["test"]
    assert [r["passage"] for r in noisy["train"]] == [r["passage"] for r in plain["train"]]
    changed = sum(a["answer"] != b["answer"] for a, b in zip(plain["train"], noisy["train"], strict=True))
    # Another row has the same color one time in eight.
    assert changed / 4000 == pytest.approx(0.4 * 7 / 8, abs=0.03)


def test_the_answers_of_families_follow_from_their_options():
    for row in rows("membership", "train", {"attribute": "color", "members": ("red", "blue"), "train": 100}):
        color = next(word for word in row["passage"].split() if word in COLORS)
        assert row["answer"] == ("yes" if color in ("red", "blue") else "no")
    for row in rows("several", "train", {"attributes": ("buyer", "day"), "train": 100}):
        facts = read_back(row["passage"])
        assert row["answer"] == f"{facts['buyer']} {facts['day']}"
    for row in rows("same", "train", {"attribute": "color", "train": 100}):
        first, second = (next(w for w in row[c].split() if w in COLORS) for c in ("first", "second"))
        assert row["answer"] == ("same" if first == second else "different")


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("atribute", {}, "Did you mean 'attribute'"),
        ("attribute", {"attribute": "colour"}, "Did you mean 'color'"),
        ("attribute", {"attribute": "color", "nois": 1}, "Did you mean 'noise'"),
        ("membership", {"attribute": "color", "members": ("rod",)}, "Did you mean 'red'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(family: str, options: dict, message: str):
    with pytest.raises(UnknownName, match=message):
        list(rows(family, "train", options))


def test_an_unknown_split_is_refused():
    with pytest.raises(UnknownName, match="split"):
        list(rows("entailment", "tset", {}))


@pytest.mark.parametrize(
    "wrong", [{"train": 0}, {"noise": -1}, {"fillers": -2}, {"label_noise": 1.5}, {"label_noise": float("nan")}]
)
def test_impossible_difficulties_are_refused(wrong: dict):
    with pytest.raises(BadInput):
        Difficulty(**wrong)
    with pytest.raises(BadInput):
        with_difficulty(TASKS["lab/color"], **wrong)


def test_more_rows_than_the_world_has_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("softprompt.world._rows.EXHAUSTED", 30)
    monkeypatch.setattr("softprompt.world._rows.FAMILIES", {"same": lambda sampler: {"first": "a", "answer": "b"}})
    with pytest.raises(BadInput, match="about 1 different rows"):
        list(rows("same", "train", {}))


def test_only_lab_tasks_can_be_made_harder():
    assert with_difficulty(TASKS["glue/sst2"]) is TASKS["glue/sst2"]
    with pytest.raises(BadInput, match="rows of its own"):
        with_difficulty(TASKS["glue/sst2"], noise=1)
