"""Cloze patterns: each text exactly, the mask wherever it stands, and what cannot be asked so."""

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from softprompt import evaluate, predict
from softprompt.backbones import from_model
from softprompt.cli import main
from softprompt.data import TextFormat, tokenize
from softprompt.errors import BadInput, UnknownName, UnsupportedModel
from softprompt.inference.rows import examples_for
from softprompt.interop.recipes import text_expression
from softprompt.prompts.batch import PromptBatch
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.tasks import PATTERNS, TASKS, Source, Task, custom_task, styled, task
from softprompt.training import train

from tiny import ENCODERS

ROWS: dict[str, dict[str, Any]] = {
    "super_glue/boolq": {"passage": "P", "question": "is it q"},
    "super_glue/cb": {"premise": "P.", "hypothesis": "it is h."},
    "glue/rte": {"sentence1": "P.", "sentence2": "It is h?!"},
    "super_glue/wic": {"word": "w", "sentence1": "A w.", "sentence2": "B w."},
    "super_glue/multirc": {"paragraph": "<b>S</b>", "question": "Why?", "answer": "a"},
    "super_glue/wsc.fixed": {
        "text": "Bob saw the dog when he came .", "span1_index": 0, "span1_text": "Bob",
        "span2_index": 5, "span2_text": "he",
    },
}  # fmt: skip
TEXTS = {
    "super_glue/boolq": [
        ("P. Question: is it q? Answer: [MASK].", "No Yes"),
        ("P. Question: is it q? Answer: [MASK].", "false true"),
        ("P. Based on the previous passage, is it q? [MASK].", "No Yes"),
        ("P. Based on the previous passage, is it q? [MASK].", "false true"),
        ("Based on the following passage, is it q? [MASK]. P", "No Yes"),
        ("Based on the following passage, is it q? [MASK]. P", "false true"),
    ],
    "super_glue/cb": [
        ('"it is h"? [MASK], "P."', "Yes No Maybe"),
        ("it is h? [MASK], P.", "Yes No Maybe"),
        ('"it is h"? [MASK]. "P."', "Yes No Maybe"),
        ("it is h? [MASK]. P.", "Yes No Maybe"),
        ("P. question: it is h. true, false or neither? answer: [MASK]", "true false neither"),
    ],
    "glue/rte": [
        ('"It is h"? [MASK], "P."', "Yes No"),
        ("It is h? [MASK], P.", "Yes No"),
        ('"It is h"? [MASK]. "P."', "Yes No"),
        ("It is h? [MASK]. P.", "Yes No"),
        ("P. question: It is h?! True or False? answer: [MASK]", "true false"),
    ],
    "super_glue/wic": [
        ('"A w." / "B w." Similar sense of "w"? [MASK].', "No Yes"),
        ("A w. B w. Does w have the same meaning in both sentences? [MASK]", "No Yes"),
        ('w . Sense (1) (a) "A w." ([MASK]) "B w."', "2 b"),
    ],
    "super_glue/multirc": [
        ("S. Question: Why?? Is it a? [MASK].", "No Yes"),
        ('S. Question: Why?? Is the correct answer "a"? [MASK].', "No Yes"),
        ('S. Based on the previous passage, Why?? Is "a" a correct answer? [MASK].', "No Yes"),
        ("S Why? - [[MASK]] a", "False True"),
    ],
    "super_glue/wsc.fixed": [
        ('* Bob * saw the dog when # he # came . Does "he" refer to "Bob"? [MASK].', "No Yes"),
    ],
}
EVERY = [(name, number) for name, texts in TEXTS.items() for number in range(len(texts))]
CLOZE = Task(
    name="cloze", source=Source(), template="{a} was {mask} and {b}", labels=("bad", "good"), truncate=("a", "b")
)


def put(name: str, number: int) -> Task:
    return styled(task(name), f"pet-{number}")


def double(built):
    model, tokenizer = built
    return from_model(model.double(), tokenizer)


def ids_of(
    row: dict[str, Any], declared: Task, tokenizer: Any, max_length: int | None = None, **options: Any
) -> list[int]:
    options = {"answers": "label-words", "mask": tokenizer.mask_token, "suffix": f" {tokenizer.mask_token}", **options}
    reading = TextFormat(tokenizer=tokenizer, encode_answers=lambda _: [], **options)
    made = tokenize([row], declared, reading, max_length=max_length, targets=False)
    return made.inputs.row(0).tolist()


class TestEveryPattern:
    def test_all_are_written_down_here(self):
        written = {name: len(patterns) for name, patterns in PATTERNS.items() if name in TEXTS}
        assert written == {name: len(texts) for name, texts in TEXTS.items()}
        assert set(PATTERNS) <= set(TASKS)

    def test_the_other_names_of_a_task_have_its_patterns(self):
        same = {"fewglue/boolq": "boolq", "fewglue/cb": "cb", "fewglue/wic": "wic", "fewglue/multirc": "multirc"}
        assert all(PATTERNS[few] is PATTERNS[f"super_glue/{name}"] for few, name in same.items())
        wsc = PATTERNS["super_glue/wsc.fixed"]
        assert PATTERNS["fewglue/wsc"] is PATTERNS["super_glue/wsc"] is wsc
        assert set(PATTERNS) - set(TEXTS) == {*same, "fewglue/wsc", "fewglue/rte", "super_glue/wsc", "super_glue/rte"}
        row = {"premise": ROWS["glue/rte"]["sentence1"], "hypothesis": ROWS["glue/rte"]["sentence2"]}
        for number, (text, words) in enumerate(TEXTS["glue/rte"]):
            for name in ("super_glue/rte", "fewglue/rte"):
                assert put(name, number).render(row).text == text
                assert put(name, number).labels == tuple(words.split())

    @pytest.mark.parametrize(("name", "number"), EVERY)
    def test_text_and_label_words_are_pets(self, name, number):
        text, words = TEXTS[name][number]
        assert put(name, number).render(ROWS[name]).text == text
        assert put(name, number).labels == tuple(words.split())
        assert put(name, number).style == f"pet-{number}"

    @pytest.mark.parametrize(("name", "number"), EVERY)
    def test_spans_hold_exactly_the_columns_behind_a_mask_of_any_length(self, name, number):
        made = put(name, number)
        rendered, prepared = made.render(ROWS[name], "<a very long mask>"), made.prepared(ROWS[name])
        assert {c: rendered.text[a:b] for c, (a, b) in rendered.spans.items()} == {c: prepared[c] for c in made.columns}

    @pytest.mark.parametrize(("name", "number"), EVERY)
    def test_what_may_be_cut_stands_in_the_template(self, name, number):
        assert set(put(name, number).shortened) <= set(put(name, number).columns)

    @pytest.mark.parametrize(("name", "number"), EVERY)
    def test_json_brings_the_task_back(self, name, number):
        made = put(name, number)
        assert Task.from_json(json.loads(json.dumps(made.to_json()))) == made


class TestStyles:
    def test_pet_is_the_first_pattern_and_does_not_pile_up(self):
        first = styled(task("glue/rte"), "pet")
        assert first == styled(first, "pet") == styled(first, "pet-0") == put("glue/rte", 0)
        with pytest.raises(BadInput, match="already in style 'pet-0'"):
            styled(first, "pet-1")

    def test_unknown_patterns_are_named_with_the_nearest(self):
        with pytest.raises(UnknownName, match=r"unknown pattern of 'super_glue/cb' 'pet-5'\. Did you mean 'pet-4'"):
            put("super_glue/cb", 5)
        with pytest.raises(UnknownName, match="unknown style 'pets'"):
            styled(task("super_glue/cb"), "pets")
        with pytest.raises(UnknownName, match="unknown style 't5-1'"):
            styled(task("super_glue/cb"), "t5-1")
        with pytest.raises(BadInput, match="'glue/sst2' has no cloze pattern; those of super_glue/boolq, "):
            put("glue/sst2", 0)

    def test_the_command_line_shows_them(self, capsys):
        assert main(["tasks", "show", "super_glue/wic", "--style", "pet-2", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["labels"], shown["style"]) == (["2", "b"], "pet-2")
        assert main(["tasks", "show", "super_glue/wic"]) == 0
        assert '({mask}) "{sentence2}" -> 2 | b' in capsys.readouterr().out


class TestTemplatesOfOnesOwn:
    def test_a_template_may_say_where_the_answer_stands(self):
        assert CLOZE.is_cloze
        assert CLOZE.columns == ("a", "b")
        assert CLOZE.render({"a": "it", "b": "new"}).text == "it was [MASK] and new"
        assert not task("glue/sst2").is_cloze

    def test_two_masks_are_refused(self):
        with pytest.raises(BadInput, match=r"holds \{mask\} more than once"):
            dataclasses.replace(CLOZE, template="{mask} {a} {mask}").render({"a": "it"})

    def test_a_column_called_mask_is_refused(self, tmp_path):
        (tmp_path / "rows.csv").write_text("mask,label\nyes,0\nno,1\n")
        with pytest.raises(BadInput, match="a column called 'mask' cannot stand in a template"):
            custom_task(tmp_path / "rows.csv", text_columns=["mask"], label_column="label")


@pytest.mark.parametrize("family", ENCODERS)
class TestTheMask:
    @pytest.mark.parametrize(("name", "number"), EVERY)
    def test_is_the_only_one_and_where_the_pattern_puts_it(self, family, name, number, tiny_bert):
        tokenizer = tiny_bert(family)[1]
        ids = ids_of(ROWS[name], put(name, number), tokenizer)
        assert ids == tokenizer(TEXTS[name][number][0].replace("[MASK]", tokenizer.mask_token)).input_ids
        assert ids.count(tokenizer.mask_token_id) == 1

    def test_answers_as_the_model_does_there(self, family, tiny_bert):
        backbone = double(tiny_bert(family))
        rows = [{"a": "the film", "b": "not in paris"}, {"a": "it", "b": "a very great movie"}]
        examples = examples_for(backbone, CLOZE, rows, 3, targets=False)
        prompt_batch = PromptBatch.stack(
            [torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(0))]
        )
        batch = examples.batch([0, 1], 0, backbone.pad_id)
        labels = backbone.encode_answers(CLOZE.labels)
        scores = backbone.label_scores(prompt_batch, batch, labels)
        for row in range(2):
            ids = examples.inputs.row(row).long()[None]
            joined = torch.cat([prompt_batch.vectors.double(), backbone.embeddings(ids)], 1)
            logits = backbone.model(inputs_embeds=joined).logits[0, 3:][ids[0] == backbone.tokenizer.mask_token_id]
            assert logits.shape[0] == 1
            reference = logits.log_softmax(-1)[0, [label[0] for label in labels]]
            torch.testing.assert_close(scores[row], reference, rtol=0, atol=1e-6)

    def test_that_hides_a_word_is_not_the_one_that_answers(self, family, tiny_bert):
        backbone = double(tiny_bert(family))
        batch = examples_for(backbone, CLOZE, [{"a": "it", "b": "a film"}], 2, targets=False).batch([0], 0, 0)
        assert batch.parts is not None
        ids = batch.ids.masked_fill(batch.parts == 2, backbone.tokenizer.mask_token_id)
        hidden = dataclasses.replace(batch, ids=ids)
        prompt_batch = PromptBatch.stack([torch.ones(2, backbone.embedding_size)])
        joined = torch.cat([prompt_batch.vectors.double(), backbone.embeddings(ids)], 1)
        reference = backbone.model(inputs_embeds=joined).logits[0, 2:]
        place = batch.ids[0].tolist().index(backbone.tokenizer.mask_token_id)
        torch.testing.assert_close(backbone.logits(prompt_batch, hidden)[0, 0], reference[place], rtol=0, atol=1e-6)

    def test_in_a_rows_own_text_is_read_as_words(self, family, tiny_bert):
        tokenizer = tiny_bert(family)[1]
        mask = tokenizer.mask_token
        row = {"a": f"the {mask}{mask}", "b": f"a {mask} film {mask}"}
        apart = {name: text.replace(mask, f"{mask[0]} {mask[1:]}") for name, text in row.items()}
        ids = ids_of(row, CLOZE, tokenizer)
        assert ids == tokenizer(CLOZE.render(apart, mask).text).input_ids
        before = tokenizer(f"{apart['a']} was", add_special_tokens=False).input_ids
        assert [i for i, token in enumerate(ids) if token == tokenizer.mask_token_id] == [1 + len(before)]

    def test_behind_the_text_is_the_only_one_too(self, family, tiny_bert):
        tokenizer = tiny_bert(family)[1]
        plain = dataclasses.replace(CLOZE, template="{a} and {b}")
        ids = ids_of({"a": tokenizer.mask_token, "b": "film"}, plain, tokenizer)
        assert ids.count(tokenizer.mask_token_id) == 1
        assert ids[-2] == tokenizer.mask_token_id


class Slow:
    """A tokenizer without offsets."""

    is_fast = False

    def __init__(self, inner: Any):
        self.inner, self.mask_token, self.all_special_ids = inner, inner.mask_token, inner.all_special_ids

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        return {"input_ids": self.inner(text)["input_ids"]}

    def get_vocab(self) -> dict[str, int]:
        return self.inner.get_vocab()


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
@pytest.mark.parametrize("slow", [False, True])
def test_truncation_keeps_the_mask_and_the_template(family, slow, tiny_bert):
    tokenizer: Any = tiny_bert(family)[1]
    words = st.lists(st.sampled_from(["film", "movie", tokenizer.mask_token, "good", "zx"]), min_size=1, max_size=9)
    least = len(tokenizer(CLOZE.render({"a": "", "b": ""}, tokenizer.mask_token).text).input_ids) + 2

    @settings(max_examples=30, deadline=None)
    @given(words, words, st.integers(least, 24))
    def check(a, b, limit):
        row = {"a": " ".join(a), "b": " ".join(b)}
        ids = ids_of(row, CLOZE, Slow(tokenizer) if slow else tokenizer, max_length=limit)
        assert len(ids) <= limit
        assert ids.count(tokenizer.mask_token_id) == 1
        told = tokenizer.decode(ids).replace(" ", "")
        assert f"was{tokenizer.mask_token}and" in told

    check()


class TestOtherModels:
    @pytest.mark.parametrize(("family", "how"), [("t5", "in tokens"), ("gpt2", "in tokens")])
    def test_that_answer_in_tokens_are_refused(self, family, how, tiny_model):
        with pytest.raises(BadInput, match=f"'cloze' in style 'words' is answered at a {{mask}}, this model .* {how};"):
            examples_for(from_model(*tiny_model(family)), CLOZE, [{"a": "x", "b": "y"}], 2, targets=False)

    def test_without_a_masked_lm_head_are_refused_and_leave_no_folder(self, tiny_bert, tmp_path):
        write_rte(tmp_path / "data")
        backbone = from_model(*tiny_bert(head=False))
        with pytest.raises(BadInput, match=r"answers by a linear head; .* \(softprompt lab mlm-head trains one\)"):
            train("glue/rte", backbone, style="pet", data_root=tmp_path / "data", output=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_that_do_not_know_a_label_word_are_refused(self, tiny_bert):
        backbone = from_model(*tiny_bert())
        with pytest.raises(UnsupportedModel, match="'Maybe' is not one known token"):
            backbone.encode_answers(put("super_glue/cb", 0).labels)


def write_rte(root: Path) -> Path:
    """A few rows of RTE as they lie below a data root."""
    folder = root / "glue" / "rte"
    folder.mkdir(parents=True)
    for split, n in (("train", 24), ("validation", 12)):
        lines = [
            json.dumps({"sentence1": f"the film was {word}", "sentence2": "it was good .", "label": i % 2, "idx": i})
            for i in range(n)
            for word in [("good", "terrible")[i % 2] if i % 3 else ("great", "bad")[i % 2]]
        ]
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return root


def test_a_pattern_is_kept_over_rows_of_ones_own(tiny_bert, tmp_path):
    folder = write_rte(tmp_path / "data") / "glue" / "rte"
    files = {"train": str(folder / "train.jsonl.gz"), "validation": str(folder / "validation.jsonl.gz")}
    few = dataclasses.replace(put("glue/rte", 4), name="few/rte", source=Source(files=files))
    settings = TrainSettings(steps=1, eval_every=1, batch_size=4)
    run = train(few, from_model(*tiny_bert()), settings=settings, output=tmp_path / "run")
    assert Task.from_json(run.prompt(0).provenance.task or {}) == few


@pytest.mark.parametrize("number", [0, 4])
def test_a_prompt_is_trained_evaluated_and_used_in_its_pattern(number, tiny_bert, tmp_path):
    data, backbone = write_rte(tmp_path / "data"), from_model(*tiny_bert())
    run = train(
        "glue/rte",
        backbone,
        prompts=[PromptSettings(method="prompt-tuning", lr=0.3)],
        settings=TrainSettings(steps=30, eval_every=10, batch_size=8),
        style=f"pet-{number}",
        data_root=data,
        output=tmp_path / "run",
    )
    losses = [
        json.loads(line) for line in (run.folder / run.results[0].prompt / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in losses if "loss" in line]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    prompt = run.prompt(0)
    assert Task.from_json(prompt.provenance.task or {}) == put("glue/rte", number)
    found = evaluate(prompt, model=backbone, data_root=data).metrics
    assert found["accuracy"] == run.results[0].metrics["test"]["accuracy"]
    row = {"sentence1": "the film was good", "sentence2": "it was good."}
    (answer,) = predict(prompt, [row], model=backbone)
    assert answer["text"] == put("glue/rte", number).render(row).text
    assert set(answer["scores"]) == set(put("glue/rte", number).labels)


def test_the_recipe_of_an_exported_prompt_puts_the_mask_in_its_place(tiny_bert):
    tokenizer = tiny_bert("roberta")[1]
    made = text_expression(CLOZE.to_json(), "encoder", "label-words")
    assert eval(made, {"tokenizer": tokenizer}) == "{a} was <mask> and {b}"
    for template, shown in (
        ("{a}", "{a} <mask>"),
        ("Note {{x}} [{a}]", "Note {x} [{a}] <mask>"),
        ("{{mask}} {a} is {mask}.", "{mask} {a} is <mask>."),
    ):
        expression = text_expression({"template": template}, "encoder", "label-words")
        assert eval(expression, {"tokenizer": tokenizer}) == shown
    assert eval(text_expression({"template": "Note {{x}} [{a}]"}, "encoder-decoder", "tokens")) == "Note {x} [{a}]"
