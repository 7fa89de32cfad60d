"""Where instruction, template, cue and label words stand in what a model reads, and what a stored task says of them."""

import dataclasses
import json

import pytest
from softprompt.backbones import from_model
from softprompt.cli._rows import OwnRows, own_wording, words_of
from softprompt.data import Ragged
from softprompt.errors import BadInput, SoftPromptError
from softprompt.inference.asked import worded_for
from softprompt.inference.decoding import label_ids
from softprompt.inference.rows import examples_for
from softprompt.settings import ModelSpec
from softprompt.study import RunSpec, task_and_style
from softprompt.study._work import style_of
from softprompt.tasks import (
    GROUPS,
    INSTRUCT,
    TASKS,
    Source,
    Task,
    Wording,
    custom_task,
    label_words_of,
    rephrased,
    styled,
)

CHAT = (
    "{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def own(**fields):
    values = {"name": "own", "source": Source(), "template": "{text}", "labels": ("bad", "good"), **fields}
    return Task(**values)


@pytest.fixture(scope="module")
def decoder(tiny_gpt):
    return from_model(*tiny_gpt())


@pytest.fixture(scope="module")
def chat(tiny_gpt):
    model, tokenizer = tiny_gpt()
    tokenizer.chat_template = CHAT
    return from_model(model, tokenizer, answers="chat")


def read(backbone, task, text="a good film"):
    """What the model reads of one row, as text."""
    ids = examples_for(backbone, task, [{"text": text, "label": 1}], 0).inputs.row(0)
    return backbone.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


class TestFields:
    def test_a_stored_task_of_before_has_no_instruction_and_the_decoders_own_cue(self):
        stored = own().to_json()
        assert "instruction" not in stored
        assert "cue" not in stored
        assert (Task.from_json(stored).instruction, Task.from_json(stored).cue) == ("", None)

    def test_both_come_back_from_json_the_empty_cue_too(self):
        declared = own(instruction="Say it.", cue="")
        assert Task.from_json(json.loads(json.dumps(declared.to_json()))) == declared

    @pytest.mark.parametrize(("template", "tail"), [("{text}\nTone:", "\nTone:"), ("Review: {text}", "")])
    def test_the_tail_is_what_stands_behind_the_last_column(self, template, tail):
        assert own(template=template).tail == tail


class TestWhatIsRead:
    def test_without_either_a_decoder_reads_the_text_and_its_own_cue_as_before(self, decoder):
        assert read(decoder, own()) == "a good film answer:"

    def test_the_instruction_stands_on_a_line_before_the_text_and_the_tasks_cue_behind_it(self, decoder):
        assert read(decoder, own(instruction="Good or bad?", cue=" =>")) == "Good or bad?\na good film =>"

    def test_a_template_that_holds_its_cue_gets_no_other(self, decoder):
        assert read(decoder, own(template="Film: {text}\nTone:", cue="")) == "Film: a good film\nTone:"

    def test_a_chat_has_all_of_it_in_the_users_turn(self, chat):
        found = read(chat, own(template="Film: {text}", instruction="Good or bad?", cue="\nTone:"))
        assert found == "[user]\nGood or bad?\nFilm: a good film\nTone:\n[assistant]\n"

    def test_an_encoder_decoder_reads_the_instruction_and_no_cue(self, tiny_t5):
        backbone = from_model(*tiny_t5("bart"))
        assert read(backbone, own(instruction="Good or bad?")) == "<s>Good or bad?\na good film</s>"

    def test_an_encoder_answers_behind_the_cue(self, tiny_bert):
        found = read(from_model(*tiny_bert()), own(instruction="good or bad", cue=" it was"))
        assert found == "[CLS] good or bad a good film it was [MASK] [SEP]"

    def test_truncation_cuts_the_column_only(self, decoder):
        whole = own(template="Film: {text}\nTone:", instruction="Good or bad?", cue="")
        # Without words the blank before them is a token of its own.
        needed = len(examples_for(decoder, whole, [{"text": "", "label": 1}], 0).inputs.row(0))
        cut = own(template="Film: {text}\nTone:", instruction="Good or bad?", cue="", max_length=needed + 1)
        assert read(decoder, cut, "a film film film film") == "Good or bad?\nFilm: a film\nTone:"
        with pytest.raises(BadInput, match="the instruction is 9 tokens long, and a row may have 8 with it; shorten"):
            read(decoder, own(template="Film: {text}\nTone:", instruction="Good or bad?", cue="", max_length=8))


class TestLabelWords:
    def test_they_are_tokenised_as_they_follow_the_template(self, decoder):
        tokens = [decoder.tokenizer.convert_ids_to_tokens(ids[:-1]) for ids in label_ids(decoder, own())]
        assert tokens == [["Ġbad"], ["Ġgood"]]
        behind_a_line = own(template="{text}\n", cue="")
        tokens = [decoder.tokenizer.convert_ids_to_tokens(ids[:-1]) for ids in label_ids(decoder, behind_a_line)]
        assert tokens == [["b", "a", "d"], ["g", "o", "o", "d"]]

    def test_targets_are_the_same_tokens(self, decoder):
        task = own(template="{text}\n", cue="")
        examples = examples_for(decoder, task, [{"text": "a film", "label": 1}], 0)
        assert isinstance(examples.targets, Ragged)
        assert examples.targets.row(0).tolist() == label_ids(decoder, task)[1]


class TestInstruct:
    @pytest.mark.parametrize("name", INSTRUCT)
    def test_each_known_task_reads_the_columns_it_declares_and_has_a_word_for_each_class(self, name):
        declared, put_so = TASKS[name], styled(TASKS[name], "instruct")
        assert set(put_so.columns) <= {*declared.columns, *declared.extra_columns}
        assert set(declared.truncate) <= set(put_so.columns)
        assert len(put_so.labels) == len(declared.labels)
        assert put_so.cue == ""
        assert put_so.tail.strip()
        assert put_so.instruction

    def test_every_task_that_is_known_by_name_has_one_but_those_of_the_lab(self):
        assert set(TASKS) - set(GROUPS["lab"]) == set(INSTRUCT)

    def test_classes_keep_their_meaning(self):
        row = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 1}
        cb = styled(TASKS["super_glue/cb"], "instruct")
        assert cb.labels == ("yes", "no", "maybe")
        assert cb.render(row).text == "It rains.\nHypothesis: It is wet.\nAnswer:"
        assert styled(TASKS["glue/mnli"], "instruct").labels == ("yes", "maybe", "no")
        assert styled(TASKS["glue/rte"], "instruct").labels == ("true", "false")
        assert styled(TASKS["glue/qnli"], "instruct").labels == ("yes", "no")

    def test_a_lab_task_gets_the_labs_own_instruction(self):
        assert styled(TASKS["lab/color"], "instruct").instruction == "what color :"
        with pytest.raises(BadInput, match="has no instruction of its own; write one with `instruction`"):
            styled(own(), "instruct")

    def test_decoders_take_it_by_default_and_the_lab_and_other_models_do_not(self):
        sst2 = TASKS["glue/sst2"]
        assert worded_for(sst2, "decoder") == styled(sst2, "instruct")
        assert worded_for(sst2, "encoder-decoder") == styled(sst2, "numeric")
        assert worded_for(sst2, "encoder") == sst2
        assert worded_for(TASKS["lab/color"], "decoder") == TASKS["lab/color"]

    def test_a_template_that_a_program_wrote_into_a_task_stays(self):
        changed = dataclasses.replace(TASKS["glue/sst2"], template="{sentence} =>")
        assert worded_for(changed, "decoder") == changed

    def test_a_pattern_that_ends_in_the_answer_is_continued_by_a_decoder(self):
        rte = worded_for(TASKS["glue/rte"], "decoder", "pet-4")
        assert rte.template == "{sentence1} question: {sentence2} True or False? answer:"
        assert (rte.cue, rte.labels) == ("", ("true", "false"))
        assert worded_for(TASKS["glue/rte"], "decoder", "pet-0").is_cloze
        assert worded_for(TASKS["glue/rte"], "encoder", "pet-4").is_cloze


class TestOwnWords:
    def test_they_replace_those_of_a_known_task_on_top_of_its_style(self):
        wording = Wording(instruction=" Good? ", template="Film: {sentence}\nGood? ", label_words=("no", "yes"))
        task = worded_for(TASKS["glue/sst2"], "decoder", wording=wording)
        assert (task.instruction, task.template, task.cue) == ("Good?", "Film: {sentence}\nGood?", "")
        assert (task.labels, task.style) == (("no", "yes"), "own")
        assert worded_for(task, "decoder") == task

    def test_the_rest_is_the_styles(self):
        task = worded_for(TASKS["glue/sst2"], "decoder", wording=Wording(instruction=""))
        assert (task.instruction, task.template) == ("", "Review: {sentence}\nSentiment:")

    @pytest.mark.parametrize(
        ("wording", "what"),
        [
            ({"template": "Review:"}, "reads no column"),
            ({"template": "{label} {sentence}"}, "is the answer"),
            ({"label_words": ("a", "b", "c")}, "for 2 labels .*; one each is needed"),
            ({"label_words": ("a", "a")}, "is also another label's"),
            ({"label_words": ("a", " ")}, "is empty"),
        ],
    )
    def test_what_cannot_be_is_refused(self, wording, what):
        with pytest.raises(BadInput, match=what):
            rephrased(TASKS["glue/sst2"], Wording(**wording))

    def test_a_number_has_no_label_words(self):
        with pytest.raises(BadInput, match="has no label words"):
            rephrased(TASKS["glue/stsb"], Wording(label_words=("a", "b")))

    def test_a_template_of_own_rows_that_ends_in_words_is_its_own_cue(self):
        rows = [{"text": "a", "kind": "x"}, {"text": "b", "kind": "y"}]
        asked = custom_task(rows, label_column="kind", template="{text}\nKind: ", instruction="Which?\n")
        assert (asked.template, asked.cue, asked.instruction) == ("{text}\nKind:", "", "Which?")
        assert custom_task(rows, label_column="kind", template="T: {text}").cue is None

    def test_a_column_that_the_template_no_longer_shows_is_neither_shortened_nor_read_in_windows(self):
        question = rephrased(TASKS["mrqa/nq"], Wording(template="{question}"))
        assert (question.truncate, question.window) == ((), "")
        assert rephrased(TASKS["mrqa/nq"], Wording(template="{question} {context}")).window == "context"

    def test_a_decoder_reads_own_columns_as_lines_where_no_template_is_given(self):
        rows = [{"text": "a", "more": "c", "kind": "x"}, {"text": "b", "more": "d", "kind": "y"}]
        plain = custom_task(rows, label_column="kind", text_columns=["text", "more"])
        assert worded_for(plain, "decoder").template == "text: {text}\nmore: {more}\nkind:"
        assert worded_for(plain, "decoder").cue == ""
        assert worded_for(plain, "encoder") == plain
        written = custom_task(rows, label_column="kind", template="{text}. {more}")
        assert worded_for(written, "decoder") == written

    def test_label_words_may_be_one_text_with_commas(self):
        assert words_of(("negative, positive",)) == ("negative", "positive")
        assert words_of(("a,b", "c")) == ("a,b", "c")

    def test_the_command_line_writes_a_line_end_as_backslash_n(self):
        rows = OwnRows(template="Review: {sentence}\\nGood?", label_words=("no,yes",))
        assert rows.wording("glue/sst2") == Wording(template="Review: {sentence}\nGood?", label_words=("no", "yes"))
        assert rows.task("glue/sst2") == TASKS["glue/sst2"]


def test_a_run_of_a_study_without_a_style_is_in_words_as_its_name_has_meant(tiny_gpt):
    spec = RunSpec(task="glue/sst2", model="m")
    assert style_of(spec, "decoder") == "words"
    assert style_of(spec, "encoder-decoder") is None
    assert style_of(dataclasses.replace(spec, style="instruct"), "decoder") == "instruct"


def test_an_empty_cue_is_part_of_the_name_of_a_run():
    names = {RunSpec(task=own(cue=cue), model="m").name for cue in (None, "", " =>")}
    assert len(names) == 3


def test_an_instruction_or_a_label_that_leaves_no_room_for_a_row_is_refused(decoder):
    with pytest.raises(BadInput, match=r"the instruction is 41 tokens long, and a row may have .* with it; shorten"):
        read(decoder, own(instruction=" ".join(["good"] * 37), max_length=41))
    with pytest.raises(BadInput, match=r"and the longest label, of 61, leave 3 for text"):
        read(decoder, own(labels=("bad", " ".join(["good"] * 61))))


def test_a_study_on_a_decoder_says_the_style_that_train_takes_by_default(tiny_gpt, save_tiny, tmp_path):
    model = ModelSpec(str(save_tiny(tmp_path / "gpt", *tiny_gpt())))
    sst2 = TASKS["glue/sst2"]
    assert task_and_style(sst2, model, None, Wording()) == (sst2, "instruct")
    assert task_and_style(sst2, model, "words", Wording()) == (sst2, "words")
    assert task_and_style(TASKS["lab/color"], model, None, Wording()) == (TASKS["lab/color"], None)
    task, style = task_and_style(sst2, model, None, Wording(instruction="Good?"))
    assert (task.instruction, task.template, style) == ("Good?", "Review: {sentence}\nSentiment:", None)


def test_a_study_of_own_rows_has_a_decoder_read_what_train_has_it_read(tiny_gpt, tiny_bert, save_tiny, tmp_path):
    decoder, encoder = (
        ModelSpec(str(save_tiny(tmp_path / name, *made()))) for name, made in (("gpt", tiny_gpt), ("bert", tiny_bert))
    )
    plain = custom_task({"train": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}, text_columns=["text"],
                        label_column="label")  # fmt: skip
    task, style = task_and_style(plain, decoder)
    assert (task, task.template, style) == (worded_for(plain, "decoder"), "text: {text}\nlabel:", None)
    assert task_and_style(plain, encoder) == (plain, None)


def test_label_words_may_name_their_labels():
    assert words_of(("0=no", "1=yes")) == words_of(("0=no,1=yes",)) == {"0": "no", "1": "yes"}
    assert words_of(()) is None


@pytest.mark.parametrize(
    ("labels", "texts", "words"),
    [
        (("x=1", "x=2"), ("x=1=yes", "x=2=no"), ("yes", "no")),
        (("x=1", "x=2"), ("x=2=no, x=1=yes",), ("yes", "no")),
        # The longest label counts, and where only one fits, the rest is its word.
        (("x", "x=1"), ("x=none", "x=1=a=b"), ("none", "a=b")),
        (("x", "y"), ("x=1=yes", "y=no"), ("1=yes", "no")),
        # Numbers are found however they are written.
        ((0, 1), ("1.0=a=b", "0=c"), ("c", "a=b")),
    ],
)
def test_a_label_that_holds_an_equals_sign_may_be_named_on_the_command_line(labels, texts, words):
    assert label_words_of(labels, words_of(texts)) == words


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("x=1=yes", "x=1=no"), "is given 'x=1' twice"),
        (("x=1=yes", "x=1=yes"), "is given 'x=1=yes' twice"),
        (("x=1=yes", "z=2=no"), "unknown label 'z'"),
        (("x=1=yes", "x=1"), "unknown label 'x'"),
    ],
)
def test_texts_that_name_no_label_or_one_twice_are_refused(texts, message):
    with pytest.raises(SoftPromptError, match=message):
        label_words_of(("x=1", "x=2"), words_of(texts))


def test_rows_with_such_labels_are_read_and_put_in_other_words(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,kind\na,x=1\nb,x=2\n")
    texts = ("x=1=one", "x=2=two")
    task = OwnRows(data=(str(path),), text_column=("text",), label_column="kind", label_words=texts).task(None)
    assert (task.labels, task.label_values) == (("one", "two"), ("x=1", "x=2"))
    assert rephrased(task, own_wording(None, None, ("x=2=b", "x=1=a"))).labels == ("a", "b")
