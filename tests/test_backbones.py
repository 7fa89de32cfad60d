"""The contract of frozen backbones, on tiny random models, mostly against transformers itself."""

import copy
import dataclasses
import json
from logging import INFO

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.errors import BadInput, ModelMismatch, UnknownName, UnsupportedModel
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt

from kit import targets_of
from tiny import DECODERS, ENCODER_DECODERS, ENCODERS

ALL = (*ENCODER_DECODERS, *ENCODERS, *DECODERS)
TEXTS = ["the film was good", "a terrible movie, and not in paris", "yes"]
WORDS = ["very good film", "the", "question answer"]
DOUBLE = {"rtol": 0, "atol": 1e-6}


def batch_of(backbone, texts, owner=None, side="right", targets=None):
    """Texts as the data module will hand them over, padded on one side."""
    rows = [backbone.tokenizer(text + backbone.input_suffix).input_ids for text in texts]
    width = max(map(len, rows)) + 2
    ids = torch.full((len(rows), width), backbone.pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, where], mask[i, where] = torch.tensor(row), True
    return TextBatch(ids, mask, torch.tensor(owner or [0] * len(rows)), targets)


def word_ids(backbone, words):
    return torch.tensor([backbone.tokenizer(words, add_special_tokens=False).input_ids])


def word_vectors(backbone, words):
    """The vectors of real tokens, as a prompt."""
    return backbone.embeddings(word_ids(backbone, words))[0].detach().clone()


def one_of(batch, i):
    """Row i without its pads."""
    keep = batch.mask[i]
    targets = None if batch.targets is None else batch.targets[i : i + 1]
    return TextBatch(batch.ids[i : i + 1, keep], batch.mask[i : i + 1, keep], batch.owner[i : i + 1], targets)


def random_prompt(backbone, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, backbone.embedding_size, generator=generator, dtype=torch.float32)


def stored(backbone, vectors, **changes):
    return SoftPrompt(vectors, Provenance("imported", backbone.identity(), backbone.answers, **changes))


@pytest.fixture
def backbone_of(tiny_model, exact_norms):
    """A frozen tiny backbone in float64; Gemma 2 refuses float64."""

    def build(family, answers="auto", dtype=None, engine="auto", **options):
        dtype = dtype or (torch.float32 if family == "gemma2" else torch.float64)
        model, tokenizer = tiny_model(family, dtype=dtype, **options)
        return from_model(model, tokenizer, answers=answers, engine=engine)

    return build


@pytest.mark.parametrize("family", ALL)
class TestEveryFamily:
    def test_prompt_of_word_vectors_equals_the_words(self, family, backbone_of):
        backbone = backbone_of(family)
        batch = batch_of(backbone, TEXTS[:1], targets=targets_of(backbone, ["not good"]))
        prompt_batch = PromptBatch.stack([word_vectors(backbone, WORDS[0])])
        row = one_of(batch, 0)
        ids = torch.cat([word_ids(backbone, WORDS[0]), row.ids], 1)
        if backbone.kind == "encoder-decoder":
            reference = backbone.model(input_ids=ids, labels=batch.targets).logits
        elif backbone.kind == "decoder":
            # Mistral's tokenizer here ends its texts, which the answer has to follow.
            ids = ids[:, :-1] if ids[0, -1] == backbone.tokenizer.eos_token_id else ids
            assert batch.targets is not None
            reference = backbone.model(input_ids=torch.cat([ids, batch.targets], 1)).logits
            reference = reference[:, ids.shape[1] - 1 : -1]
        else:
            reference = backbone.model(input_ids=ids).logits[ids == backbone.tokenizer.mask_token_id][:, None]
        # Gemma 2 computes in float32, whose last digit at these logits is half a millionth.
        close = {"rtol": 0, "atol": 4e-6} if family == "gemma2" else DOUBLE
        torch.testing.assert_close(backbone.logits(prompt_batch, batch), reference, **close)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_shift_to_other_vectors_gives_the_answers_of_those_vectors(self, family, side, backbone_of):
        backbone = backbone_of(family)
        prompts = [random_prompt(backbone, n, seed=n).double() for n in (4, 2, 0)]
        batch = batch_of(backbone, TEXTS, [1, 0, 2], side, targets_of(backbone, ["not good", "yes", "0"]))
        reference = backbone.logits(PromptBatch.stack(prompts), batch)
        generator = torch.Generator().manual_seed(0)
        # No special token goes: masks, ends and pads are found by their ids.
        special = torch.isin(batch.ids, torch.tensor(backbone.tokenizer.all_special_ids))
        others = torch.randint(5, 30, batch.ids.shape, generator=generator)
        ids = torch.where(batch.mask & ~special, others, batch.ids)
        prompt_batch = PromptBatch.stack(prompts)
        random = torch.randn(3, *prompt_batch.vectors.shape[1:], generator=generator, dtype=torch.float64)
        shifted = dataclasses.replace(
            batch,
            ids=ids,
            text_delta=(backbone.embeddings(batch.ids) - backbone.embeddings(ids)).detach(),
            prompt_delta=-random * prompt_batch.mask[batch.owner][:, :, None],
        )
        other = dataclasses.replace(
            prompt_batch, vectors=prompt_batch.vectors + random[[1, 0, 2]] * prompt_batch.mask[:, :, None]
        )
        torch.testing.assert_close(backbone.logits(other, shifted), reference, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padded_rows_with_ragged_prompts_equal_each_row_alone(self, family, side, backbone_of):
        backbone = backbone_of(family)
        prompts = [random_prompt(backbone, n, seed=n) for n in (4, 1, 0)]
        targets = targets_of(backbone, ["not good", "yes", "0"])
        batch = batch_of(backbone, TEXTS, owner=[1, 0, 2], side=side, targets=targets)
        together = backbone.logits(PromptBatch.stack(prompts), batch)
        for i, own in enumerate([1, 0, 2]):
            alone = one_of(batch, i)
            row = TextBatch(alone.ids, alone.mask, torch.tensor([0]), alone.targets)
            expected = backbone.logits(PromptBatch.stack([prompts[own]]), row)
            torch.testing.assert_close(together[i : i + 1], expected, rtol=0, atol=1e-5)

    def test_no_frozen_weight_gets_a_gradient_and_the_prompt_does(self, family, backbone_of):
        backbone = backbone_of(family, dtype=torch.float32)
        prompt = random_prompt(backbone, 2).requires_grad_()
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))
        backbone.logits(PromptBatch.stack([prompt]), batch).logsumexp(-1).sum().backward()
        assert [name for name, p in backbone.model.named_parameters() if p.requires_grad or p.grad is not None] == []
        assert prompt.grad is not None
        assert (prompt.grad.norm(dim=1) > 1e-6).all()

    def test_recomputed_layers_give_the_same_gradient_from_fewer_saved_numbers(self, family, backbone_of):
        backbone = backbone_of(family, engine="reference")
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))

        def gradient_and_saved():
            prompt, kept = random_prompt(backbone, 2).requires_grad_(), []

            def keep(tensor):
                kept.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = backbone.logits(PromptBatch.stack([prompt]), batch).logsumexp(-1).sum()
            (gradient,) = torch.autograd.grad(loss, prompt)
            return gradient, sum(kept)

        plain, saved = gradient_and_saved()
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 2)])
        with torch.inference_mode():
            scores = backbone.label_scores(prompt_batch, batch, backbone.encode_answers([" good", " bad"]))
        backbone.gradient_checkpointing(True)
        recomputed, fewer = gradient_and_saved()
        with torch.inference_mode():
            assert torch.equal(
                backbone.label_scores(prompt_batch, batch, backbone.encode_answers([" good", " bad"])), scores
            )
        backbone.gradient_checkpointing(False)
        again, as_before = gradient_and_saved()
        torch.testing.assert_close(recomputed, plain, rtol=1e-12, atol=1e-12)
        assert fewer < saved
        assert torch.equal(again, plain)
        assert as_before == saved

    def test_dropout_is_off_until_asked_for(self, family, backbone_of):
        rates = {"bart": ["dropout"], "distilbert": ["dropout"], "gpt2": ["resid_pdrop"], "opt": ["dropout"]}
        usual = "dropout_rate" if family in ENCODER_DECODERS else "hidden_dropout_prob"
        names = rates.get(family, ["attention_dropout" if family in DECODERS else usual])
        backbone = backbone_of(family, **dict.fromkeys(names, 0.5))
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 2)])
        off = backbone.logits(prompt_batch, batch)
        assert torch.equal(backbone.logits(prompt_batch, batch), off)
        with torch.random.fork_rng():
            backbone.dropout(True)
            assert not torch.allclose(backbone.logits(prompt_batch, batch), off, atol=1e-3)
        backbone.dropout(False)
        assert torch.equal(backbone.logits(prompt_batch, batch), off)

    def test_a_float32_prompt_works_in_a_bfloat16_model(self, family, backbone_of):
        backbone = backbone_of(family, dtype=torch.bfloat16)
        batch = batch_of(backbone, TEXTS[:1], targets=targets_of(backbone, ["good"]))
        words = word_vectors(backbone, WORDS[0])
        prompt = words.float().requires_grad_()
        logits = backbone.logits(PromptBatch.stack([prompt]), batch)
        # A decoder keeps float32 between its products, the head's rounded output among them.
        assert logits.dtype == (torch.float32 if backbone.kind == "decoder" else torch.bfloat16)
        assert torch.equal(logits, backbone.logits(PromptBatch.stack([words]), batch))
        (gradient,) = torch.autograd.grad(logits.float().logsumexp(-1).sum(), prompt)
        assert gradient.dtype == torch.float32

    def test_float16_is_refused_and_the_model_left_alone(self, family, tiny_model):
        model, tokenizer = tiny_model(family, dtype=torch.float16)
        with pytest.raises(UnsupportedModel, match="65504"):
            from_model(model, tokenizer)
        assert all(p.requires_grad for p in model.parameters())

    def test_a_saved_checkpoint_loads_as_what_it_is(self, family, tiny_model, save_tiny, tmp_path):
        model, tokenizer = tiny_model(family)
        folder = save_tiny(tmp_path / family, model, tokenizer)
        ours, theirs = load_backbone(folder), from_model(model, tokenizer)
        assert (ours.kind, ours.answers, ours.max_positions) == (theirs.kind, theirs.answers, theirs.max_positions)
        assert ours.answers == ("label-words" if family in ENCODERS else "tokens")
        batch = batch_of(ours, TEXTS, targets=targets_of(ours, ["good", "bad", "bad"]))
        prompt_batch = PromptBatch.stack([random_prompt(ours, 2)])
        assert torch.equal(ours.logits(prompt_batch, batch), theirs.logits(prompt_batch, batch))


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


def test_inputs_of_frozen_linears_are_not_saved_for_backward(tiny_t5):
    """Of a norm's output only the weight gradient of the next linear would want a copy."""
    model, tokenizer = tiny_t5()
    unfrozen = copy.deepcopy(model)

    def saved_norm_outputs(backbone):
        prompt, outputs, saved = random_prompt(backbone, 2).requires_grad_(), set(), set()
        kept = []  # held, so that no address is used twice

        def note(module, arguments, output):
            kept.append(output)
            outputs.add(output.data_ptr())

        def keep(tensor):
            kept.append(tensor)
            saved.add(tensor.data_ptr())
            return tensor

        handles = [block.layer_norm.register_forward_hook(note) for stack in (backbone.model.encoder.block,)
                   for layer in stack for block in layer.layer]  # fmt: skip
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            backbone.logits(PromptBatch.stack([prompt]), batch)
        for handle in handles:
            handle.remove()
        assert len(outputs) == 4
        return outputs & saved

    assert saved_norm_outputs(from_model(model, tokenizer, engine="reference")) == set()
    backbone = from_model(unfrozen, tokenizer, engine="reference")
    backbone.model.requires_grad_(True)
    assert len(saved_norm_outputs(backbone)) == 4


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


@pytest.mark.parametrize(("family", "layers"), [("t5", ["q", "v"]), ("bert", ["query", "value"])])
def test_lora_stays_active_under_a_prompt(family, layers, tiny_model):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model, tokenizer = tiny_model(family, dtype=torch.float64)
    plain = from_model(copy.deepcopy(model), tokenizer)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=layers, lora_dropout=0.5))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.3)
    backbone = from_model(wrapped, tokenizer)
    batch = batch_of(backbone, TEXTS[:1], targets=targets_of(backbone, ["good"]))
    prompt_batch = PromptBatch.stack([word_vectors(backbone, WORDS[0])])
    ids = torch.cat([word_ids(backbone, WORDS[0]), one_of(batch, 0).ids], 1)
    if family == "t5":
        expected = wrapped(input_ids=ids, labels=batch.targets).logits
    else:
        expected = wrapped(input_ids=ids).logits[ids == tokenizer.mask_token_id][:, None]
    torch.testing.assert_close(backbone.logits(prompt_batch, batch), expected, **DOUBLE)
    assert not torch.allclose(plain.logits(prompt_batch, batch), expected, atol=1e-3)
    assert not any(weight.requires_grad for weight in wrapped.parameters())


def test_a_model_that_peft_already_gave_a_prompt_is_refused(tiny_t5):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model, tokenizer = tiny_t5()
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2, num_transformer_submodules=1)
    with pytest.raises(UnsupportedModel, match="'default' is a prompt"):
        from_model(peft.get_peft_model(model, config), tokenizer)


def test_the_same_weights_in_bfloat16_are_the_same_model(tiny_t5):
    single, half = from_model(*tiny_t5()), from_model(*tiny_t5(dtype=torch.bfloat16))
    assert single.identity().embedding_sha256 == half.identity().embedding_sha256
    assert single.identity().embedding_sha256 != from_model(*tiny_t5(seed=1)).identity().embedding_sha256


def test_a_prompt_of_another_model_is_refused_with_both_names(tiny_t5, tiny_bert):
    ours = from_model(*tiny_t5(), name="ours")
    theirs = from_model(*tiny_t5(seed=1), name="theirs")
    wide = from_model(*tiny_t5(d_model=32), name="wide")
    ours.check(stored(ours, random_prompt(ours, 2)))
    with pytest.raises(
        ModelMismatch, match=r"'theirs' \(e = 16\), this model is 'ours' \(e = 16\) with other word emb"
    ):
        ours.check(stored(theirs, random_prompt(theirs, 2)))
    with pytest.raises(ModelMismatch, match=r"'wide' \(e = 32\), this model is 'ours' \(e = 16\); a prompt works only"):
        ours.check(stored(wide, random_prompt(wide, 2)))
    words = from_model(*tiny_bert(), name="bert")
    head = from_model(*tiny_bert(), name="bert", answers="linear-head")
    with pytest.raises(ModelMismatch, match="load it with answers='label-words'"):
        head.check(stored(words, random_prompt(words, 2)))


def test_loading_leaves_the_settings_of_transformers_alone(tiny_t5, save_tiny, tmp_path, capfd):
    from transformers.utils import logging

    folder = save_tiny(tmp_path / "model", *tiny_t5())
    capfd.readouterr()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        load_backbone(folder)
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (INFO, True)
    finally:
        logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tiny_t5, tiny_model):
    model, _ = tiny_t5()
    _, other = tiny_model("bart")
    with pytest.raises(BadInput, match="give the tokenizer of this model"):
        from_model(model, other)


class TestBadFolders:
    @pytest.fixture
    def folder(self, tiny_t5, save_tiny, tmp_path):
        return save_tiny(tmp_path / "model", *tiny_t5())

    def refused(self, kind, message, name, **options):
        with pytest.raises(kind, match=message) as caught:
            load_backbone(name, **options)
        assert "\n" not in str(caught.value)

    def test_no_such_folder(self, tmp_path):
        self.refused(BadInput, "there is no model folder", tmp_path / "none")

    def test_no_name(self):
        self.refused(BadInput, "there is no model folder ''", "")

    def test_no_such_hub_id(self):
        self.refused(BadInput, "neither a folder here nor a model on the hub", "nobody/nothing")

    def test_a_folder_of_something_else(self, tmp_path):
        self.refused(BadInput, "holds no config.json", tmp_path)

    def test_a_broken_configuration(self, folder):
        (folder / "config.json").write_text("{")
        self.refused(BadInput, "configuration of .* cannot be read", folder)

    def test_no_tokenizer(self, folder):
        for path in folder.glob("tokenizer*"):
            path.unlink()
        self.refused(BadInput, "holds no tokenizer", folder)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        self.refused(BadInput, "weights of .* cannot be loaded", folder)

    def test_weights_cut_short(self, folder):
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        self.refused(BadInput, "weights of .* cannot be loaded", folder)

    def test_weights_that_the_checkpoint_lacks(self, folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights["decoder.block.1.layer.2.DenseReluDense.wo.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        self.refused(UnsupportedModel, "lacks 1 weights of its architecture", folder)

    def test_weights_of_another_kind(self, folder):
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1}))
        self.refused(UnsupportedModel, "lacks [0-9]+ weights of its architecture", folder)

    def test_half_an_encoder_decoder(self, folder):
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {"is_encoder_decoder": False}))
        self.refused(UnsupportedModel, "the encoder of a t5 alone", folder)

    def test_another_family(self, folder):
        (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
        self.refused(UnsupportedModel, "is a vit, which neither writes", folder)

    def test_a_family_that_nobody_knows(self, folder):
        (folder / "config.json").write_text(json.dumps({"model_type": "zebra"}))
        self.refused(UnsupportedModel, "no family that transformers knows", folder)

    def test_float16(self, folder):
        self.refused(UnsupportedModel, "float16 is refused .*65504", folder, dtype="float16")

    def test_a_misspelt_dtype(self, folder):
        self.refused(UnknownName, "Did you mean 'float32'", folder, dtype="floa32")

    def test_no_such_device(self, folder):
        self.refused(
            BadInput,
            "`device` 'abacus' does not exist on this machine; give auto, spread, cpu",
            folder,
            device="abacus",
        )

    def test_answers_that_do_not_exist(self, folder):
        self.refused(UnknownName, "Did you mean 'label-words'", folder, answers="label-word")


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
