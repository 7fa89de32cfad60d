"""Where instruction, template, cue and label words stand in what a model reads, and what a stored task says of them."""

import json

import pytest
from softprompt.backbones import from_model
from softprompt.data import Ragged
from softprompt.errors import BadInput
from softprompt.inference.answers import label_ids
from softprompt.inference.evaluate import examples_for
from softprompt.tasks import Source, Task

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
        with pytest.raises(BadInput, match="cutting 'text' does not suffice"):
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
