import dataclasses
import itertools
import json
from typing import Any

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.data import Examples, Windows
from softprompt.data._examples import Ragged
from softprompt.data._windows import MARGIN, _pieces, window_with_answer
from softprompt.errors import BadInput
from softprompt.inference.answers import answer
from softprompt.inference.evaluate import evaluate
from softprompt.inference.rows import examples_for
from softprompt.inference.scoring import Scoring
from softprompt.inference.windows import answer_scores, best
from softprompt.prompts.batch import PromptBatch
from softprompt.tasks import Source, Task, task
from softprompt.training import read_record, train

WORDS = " ".join(f"w{n}" for n in range(200))
ROW = {"question": "who is it?", "context": f"{WORDS} the answer is mary . {WORDS}", "answers": ["mary"]}
SHORT = {"question": "who is it?", "context": "mary is here .", "answers": ["mary"]}


@pytest.fixture(scope="module")
def t5_backbone(tiny_t5):
    return from_model(*tiny_t5(), name="tiny-t5")


@pytest.mark.parametrize(("tokens", "room", "stride"), [(10, 4, 1), (11, 4, 2), (5, 4, 3), (100, 7, 100), (8, 4, 0)])
def test_every_token_is_in_a_window_and_no_window_is_longer_than_its_room(tokens, room, stride):
    spans = [(n, n + 1) for n in range(tokens)]
    pieces = _pieces(spans, room, stride)
    assert {n for start, end in pieces for n in range(start, end)} == set(range(tokens))
    assert all(end - start <= room for start, end in pieces)
    shared = [left[1] - right[0] for left, right in itertools.pairwise(pieces)]
    assert all(overlap >= min(stride, room // 2) for overlap in shared)
    assert len(pieces) == len(set(pieces))


def test_training_reads_the_window_that_holds_the_first_accepted_text():
    cut = [{"context": "a b"}, {"context": "b mary"}, {"context": "mary ann"}]
    assert window_with_answer("context", cut, ["mary ann", "b"]) == 2
    assert window_with_answer("context", cut, ["nobody", "b"]) == 0
    assert window_with_answer("context", cut, ["nobody"]) == 0


def test_windows_follow_their_rows_when_rows_are_selected():
    whole = Windows(Ragged.of([[1], [2], [3], [4]]), torch.tensor([0, 1, 1, 2]))
    some = whole.select(torch.tensor([2, 1]))
    assert some.owner.tolist() == [0, 1, 1]
    assert [some.inputs.row(n).tolist() for n in range(3)] == [[4], [2], [3]]


def test_a_long_context_is_cut_into_windows_and_the_question_is_whole_in_each(t5_backbone):
    squad = dataclasses.replace(task("mrqa/squad"), max_length=64, stride=16)
    examples = examples_for(t5_backbone, squad, [SHORT, ROW], 4)
    assert examples.windows is not None
    assert examples.truncated == 0
    counts = torch.bincount(examples.windows.owner).tolist()
    assert counts[0] == 1
    assert counts[1] > 5
    assert int(examples.windows.inputs.lengths.max()) <= 64
    question = t5_backbone.tokenizer("question: who is it?", add_special_tokens=False).input_ids
    for number in range(len(examples.windows.inputs)):
        assert examples.windows.inputs.row(number).tolist()[: len(question)] == question
    # The window with the answer trains, which is neither the first nor the last of the long row.
    of_row = [number for number, row in enumerate(examples.windows.owner.tolist()) if row == 1]
    trained = [n for n in of_row if examples.windows.inputs.row(n).equal(examples.inputs.row(1))]
    assert trained
    assert of_row[0] < trained[0] < of_row[-1]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_windows_of_a_cloze_task_are_as_long_as_those_of_others(family, tiny_model):
    """What stands behind other texts is left out where the answer stands in the text, and its mask is one token."""
    backbone = from_model(*tiny_model(family), name="tiny", answers="label-words")
    row = {"text": "good bad movie great film " * 40}
    for template in ("it is {text} . so {mask} .", "it is {text} ."):
        put = Task(
            name="put",
            source=Source(),
            template=template,
            answer="text",
            window="text",
            stride=8,
            max_length=40,
        )
        examples = examples_for(backbone, put, [row], 4, targets=False)
        assert examples.windows is not None
        ids = [examples.windows.inputs.row(n).tolist() for n in range(len(examples.windows.inputs))]
        assert [one.count(backbone.tokenizer.mask_token_id) for one in ids] == [1] * len(ids)
        assert max(map(len, ids)) == 40 - MARGIN


def test_a_question_that_leaves_no_room_is_named(t5_backbone):
    squad = dataclasses.replace(task("mrqa/squad"), max_length=20)
    with pytest.raises(BadInput, match=r"row 1: \d+ of 20 tokens are taken before column 'context' begins"):
        examples_for(t5_backbone, squad, [{**ROW, "question": "who " * 15}], 4)


def test_it_is_not_told_to_raise_a_length_that_the_positions_bound(tiny_model):
    backbone = from_model(*tiny_model("gpt2"), name="small")
    row = {**ROW, "question": "good " * 60}
    with pytest.raises(BadInput, match=r"of \d+ tokens are taken .*; 'small' has 64 positions in all: give shorter"):
        examples_for(backbone, dataclasses.replace(task("mrqa/squad"), max_length=400), [row], 4)
    with pytest.raises(BadInput, match=r"of 20 tokens are taken .*; raise `max_length`"):
        examples_for(backbone, dataclasses.replace(task("mrqa/squad"), max_length=20), [row], 4)


def test_a_row_without_the_column_that_is_read_in_windows_is_named(t5_backbone):
    with pytest.raises(BadInput, match=r"row 2: unknown column 'context'. Known: question."):
        examples_for(t5_backbone, task("mrqa/squad"), [SHORT, {"question": "who"}], 4, targets=False)


def test_the_most_likely_window_answers_for_its_row():
    assert best([-3.0, -1.0, -2.0, -2.0], [0, 0, 1, 1]) == [1, 2]


def test_answers_over_windows_are_those_of_the_likeliest_window(t5_backbone):
    """Against a plain loop: each window answered alone, scored by its own pass, the likeliest kept."""
    squad = dataclasses.replace(task("mrqa/squad"), max_length=64, stride=16)
    examples = examples_for(t5_backbone, squad, [ROW, SHORT], 4)
    assert examples.windows is not None
    vectors = torch.randn(4, t5_backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    prompts = PromptBatch.stack([vectors])
    answers = answer(t5_backbone, prompts, examples, squad, scoring=Scoring(max_new_tokens=3))
    expected = []
    for row in range(2):
        scored = []
        for place in torch.nonzero(examples.windows.owner == row).flatten().tolist():
            batch = Examples(examples.windows.inputs.select([place]), None, []).batch([0], 0, t5_backbone.pad_id)
            (text,) = t5_backbone.generate(prompts, batch, max_new_tokens=3)
            (ids,) = t5_backbone.encode_answers([text])
            logits = t5_backbone.logits(prompts, dataclasses.replace(batch, targets=torch.tensor([ids])))
            scored.append((float(logits[0].log_softmax(-1)[range(len(ids)), ids].sum()), text))
        expected.append(max(scored, key=lambda pair: pair[0])[1])
    assert answers.texts == expected


def test_windows_are_ranked_by_the_tokens_that_training_and_generation_have(tiny_gpt):
    """Behind a new line no blank stands before an answer."""
    backbone = from_model(*tiny_gpt(n_positions=256), name="tiny")
    squad = dataclasses.replace(task("mrqa/squad"), template="{question} {context}\nAnswer:\n", cue="")
    examples = examples_for(backbone, squad, [SHORT], 4)
    vectors = torch.randn(4, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    prompts = PromptBatch.stack([vectors])
    owner = torch.zeros(1, dtype=torch.long)
    batch = examples.batch([0], owner, backbone.pad_id)
    assert batch.targets is not None
    ids = batch.targets[0].tolist()
    assert ids[:-1] == backbone.tokenizer("mary").input_ids != backbone.tokenizer(" mary").input_ids
    with torch.no_grad():
        expected = backbone.logits(prompts, batch)[0].log_softmax(-1)[range(len(ids)), ids].sum()
        (score,) = answer_scores(backbone, prompts, examples, [0], owner, ["mary"], squad)
    assert score == pytest.approx(float(expected), abs=1e-4)


SETTINGS: dict[str, Any] = {"steps": 3, "eval_every": 3, "batch_size": 4, "lr": 0.3, "with_frozen": False}


class TestTraining:
    """Training and evaluation through windows from end to end: eight rows, each with its answer at another place."""

    @pytest.fixture
    def rows(self):
        words = [f"w{n}" for n in range(160)]
        # Four contexts of the eight are short, and stay whole.
        places = [(4, 12), (30, 160), (7, 12), (80, 160), (2, 12), (120, 160), (9, 12), (158, 160)]
        contexts = [[*words[:at], "mary", ".", *words[at:length]] for at, length in places]
        return [{"question": f"who is w{n}?", "context": " ".join(c), "answers": ["mary"]}
                for n, c in enumerate(contexts)]  # fmt: skip

    @pytest.fixture
    def declared(self, tmp_path):
        def make(name, train_rows, rows):
            paths = {split: tmp_path / f"{name}-{split}.jsonl" for split in ("train", "validation", "test")}
            for split, path in paths.items():
                path.write_text("".join(json.dumps(row) + "\n" for row in (train_rows if split == "train" else rows)))
            source = Source(files={split: str(path) for split, path in paths.items()})
            return dataclasses.replace(task("mrqa/squad"), source=source, max_length=64, stride=16)

        return make

    def test_it_trains_on_the_windows_with_the_answers_and_is_scored_over_all(
        self, rows, declared, t5_backbone, tmp_path, monkeypatch
    ):
        long, seen = declared("long", rows, rows), []

        def spied(column, cut, gold):
            seen.append(cut)
            return window_with_answer(column, cut, gold)

        with monkeypatch.context() as patch:
            patch.setattr("softprompt.data._tokenize.window_with_answer", spied)
            examples_for(t5_backbone, long, rows, 4)
        assert [len(cut) > 2 for cut in seen] == [False, True] * 4
        # The same rows, cut by hand to the first window that holds the answer.
        kept = [next(part for part in cut if "mary" in part["context"]) for cut in seen]
        assert [part["context"] == row["context"] for part, row in zip(kept, rows, strict=True)] == [True, False] * 4
        whole = dataclasses.replace(declared("cut", kept, rows), max_length=256)
        runs = [
            train(put, t5_backbone, output=tmp_path / name, **SETTINGS)
            for name, put in (("long", long), ("cut", whole))
        ]
        losses = [self.losses(run.folder) for run in runs]
        assert len(losses[0]) == 3
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        (result,) = runs[0].results
        assert {"squad-f1", "exact-match", "score"} <= {*result.metrics["test"]}
        again = evaluate(runs[0].prompt(0), task=long, model=t5_backbone, split="test")
        assert again.metrics["score"] == result.metrics["test"]["score"]

    @staticmethod
    def losses(folder):
        return [row["loss"] for row in read_record(folder / "prompt-tuning-seed0" / "metrics.jsonl") if "loss" in row]
