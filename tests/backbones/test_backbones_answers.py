"""How encoder-decoders and encoders score and write answers, against transformers itself."""

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.errors import BadInput, UnknownName, UnsupportedModel
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import LinearHead

from backbones_kit import DOUBLE, TEXTS, WORDS, batch_of, one_of, random_prompt, word_ids, word_vectors
from tiny import ENCODER_DECODERS, ENCODERS


@pytest.mark.parametrize("family", ENCODER_DECODERS)
class TestEveryEncoderDecoder:
    LABELS = ("good", "not good", "very bad film")

    @pytest.mark.parametrize("normalize", ["sum", "mean"])
    def test_label_scores_equal_the_losses_of_transformers(self, family, normalize, backbone_of):
        backbone = backbone_of(family)
        labels = backbone.encode_answers(self.LABELS)
        prompt_batch = PromptBatch.stack([word_vectors(backbone, words) for words in WORDS])
        batch = batch_of(backbone, TEXTS, owner=[2, 0, 1], side="left")
        found = backbone.label_scores(prompt_batch, batch, labels, normalize=normalize)
        for i, own in enumerate([2, 0, 1]):
            ids = torch.cat([word_ids(backbone, WORDS[own]), one_of(batch, i).ids], 1)
            for c, label in enumerate(labels):
                loss = backbone.model(input_ids=ids, labels=torch.tensor([label])).loss
                expected = -loss * (len(label) if normalize == "sum" else 1)
                torch.testing.assert_close(found[i, c], expected, **DOUBLE)

    def test_first_token_scores_are_those_of_the_first_decoder_position(self, family, backbone_of):
        backbone = backbone_of(family)
        labels = backbone.encode_answers([f" {word}" for word in ("good", "bad", "yes")])
        # BART answers begin with <s>, whatever the word: there is no fast path for it.
        if family == "bart":
            labels = [label[1:] for label in labels]
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 2)])
        batch = batch_of(backbone, TEXTS, targets=torch.tensor([[label[0]] for label in labels]))
        expected = backbone.logits(prompt_batch, batch)[:, 0].log_softmax(-1)[:, [label[0] for label in labels]]
        found = backbone.label_scores(prompt_batch, batch, labels, normalize="first")
        torch.testing.assert_close(found, expected, **DOUBLE)

    def test_greedy_answers_equal_those_of_transformers_on_the_words(self, family, backbone_of):
        backbone = backbone_of(family)
        prompt_batch = PromptBatch.stack([word_vectors(backbone, words) for words in WORDS])
        batch = batch_of(backbone, TEXTS, owner=[2, 0, 1], side="left")
        answers = backbone.generate(prompt_batch, batch, max_new_tokens=7)
        # BART's defaults end an answer that is cut off with </s>, in the place of its last word.
        backbone.model.generation_config.forced_eos_token_id = None
        expected = []
        for i, own in enumerate([2, 0, 1]):
            ids = torch.cat([word_ids(backbone, WORDS[own]), one_of(batch, i).ids], 1)
            out = backbone.model.generate(ids, do_sample=False, num_beams=1, max_new_tokens=7)
            expected.append(backbone.tokenizer.decode(out[0], skip_special_tokens=True).strip())
        assert answers == expected
        assert len(set(answers)) > 1

    def test_generation_defaults_of_the_checkpoint_are_not_used_and_not_lost(self, family, backbone_of):
        backbone = backbone_of(family)
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 2)])
        batch = batch_of(backbone, TEXTS)
        plain = backbone.generate(prompt_batch, batch, max_new_tokens=7)
        odd = backbone.model.generation_config
        odd.num_beams, odd.repetition_penalty, odd.no_repeat_ngram_size, odd.min_length = 3, 9.0, 1, 6
        assert backbone.generate(prompt_batch, batch, max_new_tokens=7) == plain
        assert backbone.model.generation_config is odd

    def test_answers_end_with_the_end_of_sequence_once(self, family, backbone_of):
        backbone = backbone_of(family)
        end = backbone.tokenizer.eos_token_id
        assert [(row[-1], row.count(end)) for row in backbone.encode_answers(self.LABELS)] == [(end, 1)] * 3

    def test_labels_that_share_their_first_token_are_refused_by_the_fast_path(self, family, backbone_of):
        backbone = backbone_of(family)
        labels = backbone.encode_answers([" not good", " bad", " not bad"])
        if family == "bart":
            labels = [label[1:] for label in labels]
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 1)])
        with pytest.raises(BadInput, match="'not good' and 'not bad' begin with the same token"):
            backbone.label_scores(prompt_batch, batch_of(backbone, TEXTS), labels, normalize="first")

    def test_other_kinds_of_answer_are_refused(self, family, tiny_model):
        with pytest.raises(UnsupportedModel, match="answers in tokens, not by linear-head"):
            from_model(*tiny_model(family), answers="linear-head")


@pytest.mark.parametrize("family", ENCODERS)
class TestEveryEncoder:
    def heads(self, backbone, count, classes=3):
        generator = torch.Generator().manual_seed(5)
        weights = torch.randn(count, classes, backbone.hidden_size, generator=generator, dtype=torch.float64)
        biases = torch.randn(count, classes, generator=generator, dtype=torch.float64)
        return [LinearHead(weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    def test_linear_head_reads_the_mean_of_the_text_states(self, family, backbone_of):
        backbone = backbone_of(family, "linear-head")
        heads = self.heads(backbone, 2)
        prompt_batch = PromptBatch.stack([word_vectors(backbone, words) for words in WORDS[:2]], heads)
        batch = batch_of(backbone, TEXTS, owner=[1, 0, 1], side="left")
        found = backbone.logits(prompt_batch, batch)
        scores = backbone.label_scores(prompt_batch, batch, backbone.encode_answers(["a", "b b", "c"]))
        for i, own in enumerate([1, 0, 1]):
            words = word_ids(backbone, WORDS[own])
            ids = torch.cat([words, one_of(batch, i).ids], 1)
            states = backbone.model.base_model(input_ids=ids).last_hidden_state[0, words.shape[1] :]
            expected = heads[own].weight @ states.mean(0) + heads[own].bias
            torch.testing.assert_close(found[i, 0], expected, **DOUBLE)
            torch.testing.assert_close(scores[i], expected.log_softmax(-1), **DOUBLE)

    def test_pooling_never_sees_prompt_or_pad_positions(self, family, backbone_of):
        backbone = backbone_of(family, "linear-head")
        prompt_batch = PromptBatch.stack([random_prompt(backbone, n) for n in (3, 1)], self.heads(backbone, 2))
        batch = batch_of(backbone, TEXTS, owner=[1, 0, 1], side="left")
        expected = backbone.logits(prompt_batch, batch)
        seen = []

        def perturb(module, arguments, output):
            states = output.last_hidden_state
            others = torch.ones(states.shape[:2], dtype=torch.bool)
            for i, keep in enumerate(batch.mask):
                others[i, 3 : 3 + int(keep.sum())] = False
            seen.append(int(others.sum()))
            output.last_hidden_state = states.masked_fill(others[:, :, None], float("nan"))
            return output

        with backbone.base.register_forward_hook(perturb):
            torch.testing.assert_close(backbone.logits(prompt_batch, batch), expected, **DOUBLE)
        assert seen[0] > 0

    def test_label_scores_equal_the_log_softmax_of_transformers_at_the_mask(self, family, backbone_of):
        backbone = backbone_of(family)
        labels = backbone.encode_answers(["good", "bad", "yes"])
        prompt_batch = PromptBatch.stack([word_vectors(backbone, words) for words in WORDS])
        batch = batch_of(backbone, TEXTS, owner=[2, 0, 1], side="left")
        found = backbone.label_scores(prompt_batch, batch, labels)
        for i, own in enumerate([2, 0, 1]):
            ids = torch.cat([word_ids(backbone, WORDS[own]), one_of(batch, i).ids], 1)
            at_mask = backbone.model(input_ids=ids).logits[ids == backbone.tokenizer.mask_token_id][0]
            expected = at_mask.log_softmax(-1)[[label[0] for label in labels]]
            torch.testing.assert_close(found[i], expected, **DOUBLE)

    def test_label_words_of_several_tokens_are_refused_and_all_named(self, family, backbone_of):
        with pytest.raises(UnsupportedModel, match="'not good', 'zebra' are not one known token"):
            backbone_of(family).encode_answers(["good", "not good", "zebra"])

    def test_the_last_mask_of_a_text_is_the_one_that_answers(self, family, backbone_of):
        backbone = backbone_of(family)
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 2)])
        batch = batch_of(backbone, [f"the {backbone.tokenizer.mask_token} was good"])
        ids = one_of(batch, 0).ids
        embeds = torch.cat([prompt_batch.vectors.double(), backbone.embeddings(ids)], 1)
        at_masks = backbone.model(inputs_embeds=embeds).logits[:, 2:][ids == backbone.tokenizer.mask_token_id]
        assert len(at_masks) == 2
        torch.testing.assert_close(backbone.logits(prompt_batch, batch)[0, 0], at_masks[1], **DOUBLE)

    def test_a_text_without_a_mask_is_refused(self, family, backbone_of):
        backbone = backbone_of(family)
        prompt_batch, batch = PromptBatch.stack([random_prompt(backbone, 2)]), batch_of(backbone, TEXTS)
        batch.ids[1] = torch.where(
            batch.ids[1] == backbone.tokenizer.mask_token_id, backbone.tokenizer.unk_token_id, batch.ids[1]
        )
        with pytest.raises(BadInput, match="row 1 holds no"):
            backbone.logits(prompt_batch, batch)

    def test_prompt_and_text_beyond_the_last_position_are_refused_with_both_lengths(self, family, backbone_of):
        backbone = backbone_of(family, "linear-head")
        limit = backbone.max_positions
        assert limit == (62 if backbone.tokenizer.pad_token_id == 1 else 64)
        prompts = [random_prompt(backbone, n) for n in (limit - 12, 5)]
        prompt_batch = PromptBatch.stack(prompts, self.heads(backbone, 2))
        batch = batch_of(backbone, ["yes", " ".join(["film"] * 20)], owner=[0, 1])
        # The batch is wider than the model allows, its rows are not.
        assert prompt_batch.vectors.shape[1] + batch.ids.shape[1] > limit
        alone = PromptBatch.stack(prompts[1:], self.heads(backbone, 2)[1:])
        row = one_of(batch, 1)
        expected = backbone.logits(alone, TextBatch(row.ids, row.mask, torch.tensor([0])))
        torch.testing.assert_close(backbone.logits(prompt_batch, batch)[1:], expected, **DOUBLE)
        both_long = TextBatch(batch.ids, batch.mask, torch.tensor([0, 0]))
        text = int(batch.mask[1].sum())
        with pytest.raises(BadInput, match=f"prompt of {limit - 12} and a text of {text} tokens .* has {limit}"):
            backbone.logits(prompt_batch, both_long)

    def test_generation_is_refused(self, family, backbone_of):
        backbone = backbone_of(family)
        with pytest.raises(UnsupportedModel, match="generates nothing"):
            backbone.generate(
                PromptBatch.stack([random_prompt(backbone, 1)]), batch_of(backbone, TEXTS), max_new_tokens=2
            )

    def test_a_checkpoint_without_masked_lm_head_answers_by_a_linear_head(self, family, tiny_bert, save_tiny, tmp_path):
        model, tokenizer = tiny_bert(family, head=False)
        folder = save_tiny(tmp_path / family, model, tokenizer)
        backbone = load_backbone(folder)
        assert (backbone.answers, backbone.input_suffix) == ("linear-head", "")
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 2)], self.heads(backbone, 1))
        batch = batch_of(backbone, TEXTS)
        same = from_model(model, tokenizer)
        assert torch.equal(backbone.logits(prompt_batch, batch), same.logits(prompt_batch, batch))
        with pytest.raises(UnsupportedModel, match="holds no masked-LM head"):
            load_backbone(folder, answers="label-words")


def test_roberta_label_words_are_the_tokens_after_a_blank(tiny_bert):
    backbone = from_model(*tiny_bert("roberta"))
    assert backbone.tokenizer.convert_ids_to_tokens([i for (i,) in backbone.encode_answers(["good", "bad"])]) == [
        "Ġgood",
        "Ġbad",
    ]


def test_a_linear_head_backbone_refuses_a_prompt_without_head(tiny_bert):
    backbone = from_model(*tiny_bert(head=False))
    with pytest.raises(BadInput, match="this prompt has none"):
        backbone.logits(PromptBatch.stack([random_prompt(backbone, 1)]), batch_of(backbone, TEXTS))


def test_a_head_of_another_number_of_classes_is_refused(tiny_bert):
    backbone = from_model(*tiny_bert(head=False))
    head = LinearHead(torch.ones(3, backbone.hidden_size), torch.ones(3))
    prompt_batch = PromptBatch.stack([random_prompt(backbone, 1)], [head])
    with pytest.raises(BadInput, match="has 3 classes, the task 2 labels"):
        backbone.label_scores(prompt_batch, batch_of(backbone, TEXTS), backbone.encode_answers(["a", "b"]))


def test_an_unknown_normalization_is_refused_with_the_nearest(tiny_t5):
    backbone = from_model(*tiny_t5())
    prompt_batch, batch = PromptBatch.stack([random_prompt(backbone, 1)]), batch_of(backbone, TEXTS)
    with pytest.raises(UnknownName, match="Did you mean 'mean'"):
        backbone.label_scores(prompt_batch, batch, backbone.encode_answers(["good"]), normalize="means")


@pytest.mark.parametrize(("family", "positions"), [("gpt2", "n_positions"), ("llama", "max_position_embeddings")])
def test_an_answer_is_as_long_as_its_own_row_allows(family, positions, tiny_gpt):
    model, tokenizer = tiny_gpt(family, dtype=torch.float64, **{positions: 40})
    backbone = from_model(model, tokenizer, name=family, engine="reference")
    prompt_batch = PromptBatch.stack([random_prompt(backbone, 3)])
    batch = batch_of(backbone, ["yes", " ".join(["film"] * 25), "no film", " ".join(["yes"] * 28)])

    def answers(rows):
        return backbone.answer_ids(prompt_batch, rows, max_new_tokens=20, at_least=6)

    together = answers(batch)
    for row, found in enumerate(together):
        alone = answers(one_of(batch, row))[0]
        assert found[: len(alone)].equal(alone)
        assert (found[len(alone) :] == backbone.pad_id).all()
    assert len(answers(one_of(batch, 0))[0]) > len(answers(one_of(batch, 1))[0])
