"""Answers that a model cannot tell apart are refused, and texts that it does not read are reported."""

import dataclasses

import pytest
from softprompt import evaluate, predict, train
from softprompt.backbones import from_model
from softprompt.data import SPECIAL, Examples, Ragged, warn_of_unknown
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.study import RunsFailed, RunSpec, run_all
from softprompt.study.stability import measure, plan

from kit import review_task

# The tokenizers of the tests spell ASCII and know no Cyrillic.
UNKNOWN = ("да", "нет")
TURN = "{% for m in messages %}user {{ m['content'] }} model {% endfor %}"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("reviews") / "data")


@pytest.fixture(scope="module")
def folder(tiny_t5, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "t5", *tiny_t5())


@pytest.fixture(scope="module")
def prompt(task, folder, tmp_path_factory):
    settings, output = TrainSettings(steps=1, eval_every=1), tmp_path_factory.mktemp("runs") / "run"
    return train(task, str(folder), settings=settings, output=output, device="cpu").prompt()


def relabelled(task, *labels):
    return dataclasses.replace(task, labels=labels)


def chat(tiny_gpt):
    model, tokenizer = tiny_gpt("llama")
    tokenizer.chat_template = TURN
    return from_model(model, tokenizer, answers="chat")


class TestLabelsThatNoModelTellsApart:
    @pytest.mark.parametrize("family", ["t5", "umt5", "llama", "gemma", "mistral"])
    def test_labels_of_unknown_tokens_are_refused_by_name_with_what_to_do(self, family, tiny_model):
        backbone = from_model(*tiny_model(family))
        with pytest.raises(BadInput, match=r"the labels 'да', 'нет': it reads them as '<unk>'.*label_words"):
            backbone.encode_distinct(UNKNOWN)
        with pytest.raises(BadInput, match="does not know the labels 'нет': "):
            backbone.encode_distinct(("good", "нет"))

    def test_labels_of_unknown_tokens_are_refused_in_chat_and_at_a_mask(self, tiny_gpt, tiny_bert):
        with pytest.raises(BadInput, match="does not know the labels 'да', 'нет': "):
            chat(tiny_gpt).encode_distinct(UNKNOWN)
        with pytest.raises(UnsupportedModel, match="'да', 'нет' are not one known token"):
            from_model(*tiny_bert()).encode_distinct(UNKNOWN)

    def test_of_many_unknown_labels_five_are_named(self, tiny_t5):
        with pytest.raises(BadInput, match="'д', 'ж', 'и', 'л', 'ф', 2 more: "):
            from_model(*tiny_t5()).encode_distinct(tuple("джилфцы"))

    @pytest.mark.parametrize("family", ["t5", "llama"])
    def test_two_labels_with_the_same_tokens_are_refused_with_these_tokens(self, family, tiny_model):
        with pytest.raises(BadInput, match=r"'good да' and 'good нет' are the same tokens .*good.*<unk>"):
            from_model(*tiny_model(family)).encode_distinct(("bad", "good да", "good нет"))

    def test_labels_that_become_equal_by_the_tokenizers_normalisation_are_refused(self, tiny_bert):
        with pytest.raises(BadInput, match=r"'good' and 'Good' are the same tokens .*\(good\)"):
            from_model(*tiny_bert()).encode_distinct(("good", "Good"))

    @pytest.mark.parametrize("family", ["t5", "bart", "gpt2", "opt", "llama", "roberta"])
    def test_labels_that_differ_are_the_tokens_of_the_answers(self, family, tiny_model):
        backbone = from_model(*tiny_model(family))
        assert backbone.encode_distinct(("good", "bad")) == backbone.encode_answers(("good", "bad"))

    @pytest.mark.parametrize("family", ["bart", "gpt2", "opt"])
    def test_a_tokenizer_of_bytes_knows_every_label(self, family, tiny_model):
        assert len(from_model(*tiny_model(family)).encode_distinct(UNKNOWN)) == 2

    def test_a_linear_head_answers_whatever_its_classes_are_called(self, tiny_bert):
        backbone = from_model(*tiny_bert(), answers="linear-head")
        assert backbone.encode_distinct(UNKNOWN) == [[0], [1]]


class TestEveryWayIn:
    def test_training_refuses_them_and_leaves_no_folder(self, task, folder, tmp_path):
        with pytest.raises(BadInput, match="does not know the labels 'да', 'нет'"):
            train(relabelled(task, *UNKNOWN), str(folder), output=tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("decode", ["scores", "generate"])
    def test_evaluation_and_prediction_refuse_them(self, decode, task, prompt):
        other = relabelled(task, "good да", "good нет")
        with pytest.raises(BadInput, match="are the same tokens"):
            evaluate(prompt, task=other, decode=decode, device="cpu")
        with pytest.raises(BadInput, match="are the same tokens"):
            predict(prompt, ["a good film"], task=other, decode=decode, device="cpu")

    def test_studies_and_stability_refuse_them(self, task, folder, tmp_path):
        spec = RunSpec(task=relabelled(task, *UNKNOWN), model=str(folder), settings=TrainSettings(steps=1))
        with pytest.raises(RunsFailed, match="does not know the labels 'да', 'нет'"):
            run_all([spec], tmp_path / "store", device="cpu", progress=False)
        with pytest.raises(RunsFailed, match="does not know the labels 'да', 'нет'"):
            measure(plan({"one": spec}, seeds=2), tmp_path / "other", device="cpu", progress=False)


class TestTextsThatAreNotRead:
    def examples(self, ids, parts, targets=()):
        return Examples(Ragged.of([ids]), Ragged.of([targets]) if targets else None, [], parts=Ragged.of([parts]))

    def test_unknown_tokens_are_counted_among_those_of_the_columns(self, tiny_t5, caplog):
        _, tokenizer = tiny_t5()
        unknown, end = tokenizer.unk_token_id, tokenizer.eos_token_id
        # Three tokens of a template, then 20 of the column, of which one or two are unknown; the end of sequence.
        parts = [0] * 3 + [1] * 20 + [SPECIAL]
        warn_of_unknown(self.examples([9] * 22 + [unknown, end], parts), tokenizer, "model")
        assert not caplog.messages
        # The tokenizer calls an unknown token special.
        parts = [0] * 3 + [1] * 18 + [SPECIAL] * 3
        warn_of_unknown(self.examples([9] * 21 + [unknown, unknown, end], parts), tokenizer, "model", "train")
        (line,) = caplog.messages
        assert line.startswith(
            "2 of the 20 tokens in the train texts are unknown (10 %): the tokenizer of 'model' reads each as '<unk>'"
        )

    def test_unknown_tokens_of_the_answers_are_counted_apart(self, tiny_t5, caplog):
        _, tokenizer = tiny_t5()
        unknown, end = tokenizer.unk_token_id, tokenizer.eos_token_id
        warn_of_unknown(self.examples([9, end], [1, SPECIAL], [9, unknown, 9, end]), tokenizer, "model")
        (line,) = caplog.messages
        assert line.startswith("1 of the 3 tokens in the answers are unknown (33 %)")

    def test_a_tokenizer_of_bytes_knows_every_text(self, tiny_gpt, caplog):
        _, tokenizer = tiny_gpt("gpt2")
        tokenizer.unk_token = tokenizer.eos_token
        warn_of_unknown(self.examples([tokenizer.eos_token_id] * 5, [1] * 5), tokenizer, "model")
        assert not caplog.messages

    def test_training_evaluation_and_prediction_say_how_many_there_are(self, task, folder, prompt, tmp_path, caplog):
        predict(prompt, ["a good film", "a да нет"], device="cpu")
        assert [line.split(":")[0] for line in caplog.messages] == ["2 of the 8 tokens in the texts are unknown (25 %)"]
        caplog.clear()
        (tmp_path / "rows.csv").write_text("text,label\n" + "да нет good,good\nbad film да нет,bad\n" * 4)
        unread = dataclasses.replace(
            task,
            source=dataclasses.replace(task.source, files=dict.fromkeys(task.source.files, str(tmp_path / "rows.csv"))),
        )
        evaluate(prompt, task=unread, device="cpu")
        assert [line.split(" are")[0] for line in caplog.messages] == ["16 of the 44 tokens in the test texts"]
        caplog.clear()
        settings = TrainSettings(steps=1, eval_every=1)
        train(unread, str(folder), prompts=[PromptSettings()], settings=settings, output=tmp_path / "run", device="cpu")
        assert [line.split(" are")[0] for line in caplog.messages if "unknown" in line] == [
            f"16 of the 44 tokens in the {split} texts" for split in ("train", "validation", "test")
        ]
