"""Regularisers that replace words of the text."""

import dataclasses

import pytest
import torch
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch
from softprompt.regularizers import Vocabulary, _words
from softprompt.regularizers._words import free_words

from regularizers_kit import FAMILIES, LENGTH, batch_of, context_of, term


class TestWords:
    def context(self, setting, text, family="t5", task=None, rows=range(40), **options):
        made = setting(family, torch.float32, **({} if task is None else {"task": task}))
        backbone, regularizer_context, examples = made
        batch = batch_of(backbone, examples, rows)
        prompt_batch = PromptBatch.stack([torch.randn(LENGTH, backbone.embedding_size)])
        shifted = dataclasses.replace(
            batch, text_delta=torch.zeros(*batch.ids.shape, backbone.embedding_size, requires_grad=True)
        )
        (gradient,) = torch.autograd.grad(
            task_losses(backbone.logits(prompt_batch, shifted), batch.targets).sum(), shifted.text_delta
        )
        gradient = torch.nn.functional.pad(gradient, (0, 0, LENGTH, 0))
        group, context = context_of(regularizer_context, term(text), batch, prompt_batch, gradient)
        return group, context

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("how", ["mask", "replace"])
    def test_about_the_rate_of_free_words_changes_and_nothing_else(self, family, how, setting):
        group, context = self.context(setting, f"rn-text:rate=0.3,how={how}", family)
        found = next(iter(group.batches(context)))
        changed = found.ids != context.batch.ids
        free = free_words(context, "all")
        assert not changed[~free].any()
        assert 0.2 < changed[free].float().mean() < 0.4
        assert found.mask is context.batch.mask

    def test_all_tokens_of_a_word_change_together(self, setting):
        group, context = self.context(setting, "rn-text:rate=0.5", "bert")
        begins = context.vocabulary.begins.clone()
        begins[context.vocabulary.tokens.index("was")] = False
        context.vocabulary.begins = begins
        words = context.vocabulary.words(context.batch.ids, context.batch.mask)
        changed = next(iter(group.batches(context))).ids != context.batch.ids
        several = 0
        for row, marks in zip(words, changed, strict=True):
            for word in row[row > 0].unique():
                assert marks[row == word].unique().numel() == 1
                several += int((row == word).sum() > 1)
        assert several

    @pytest.mark.parametrize(
        "text", ["rn-text:rate=1", "rn-text:rate=1,how=replace", "adv-text:cosine=-1,rate=1,stop_words=false"]
    )
    def test_label_words_are_neither_taken_nor_written(self, text, setting):
        group, context = self.context(setting, text)
        guarded = context.vocabulary.guarded
        assert guarded[context.batch.ids].any()
        found = next(iter(group.batches(context)))
        assert (guarded[found.ids] & context.batch.mask).equal(guarded[context.batch.ids] & context.batch.mask)
        assert (found.ids != context.batch.ids).any()

    def test_without_a_mask_token_words_are_replaced_and_a_line_says_so(self, setting, caplog):
        group, context = self.context(setting, "rn-text:rate=1", "gpt2")
        assert context.vocabulary.mask_id is None
        _words._warned.clear()
        found = next(iter(group.batches(context)))
        assert "no mask token" in caplog.text
        changed = found.ids != context.batch.ids
        assert context.vocabulary.replaceable[found.ids[changed]].all()

    def test_swaps_raise_the_loss_within_their_budget_and_keep_stop_words(self, setting):
        group, context = self.context(setting, "adv-text:cosine=-1,rate=0.3,tried=2")
        found = next(iter(group.batches(context)))
        changed = found.ids != context.batch.ids
        free = group.regularizer.perturbation.free(context)
        assert not changed[~free].any()
        budget = (0.3 * free.sum(1)).ceil().clamp(min=1)
        assert (changed.sum(1) <= budget).all()
        before, after = (context.losses(context.logits(b), b) for b in (context.batch, found))
        assert (after[changed.any(1)] > before[changed.any(1)]).all()
        assert changed.any()
        assert found.mask.equal(context.batch.mask)

    def test_swaps_go_to_near_neighbours_only(self, setting):
        group, context = self.context(setting, "adv-text:cosine=0.6,candidates=5,tried=5,rate=1,stop_words=false")
        found = next(iter(group.batches(context)))
        changed = found.ids != context.batch.ids
        table = torch.nn.functional.normalize(context.embeddings, dim=1)
        assert changed.any()
        for old, new in zip(context.batch.ids[changed], found.ids[changed], strict=True):
            near = (table @ table[old]).masked_fill(~context.vocabulary.replaceable, -2)
            near[old] = -2
            assert new in near.topk(5).indices
            assert near[new] >= 0.6

    def test_only_the_last_text_of_a_pair_is_swapped_unless_both_are_asked_for(self, setting, task):
        pair = dataclasses.replace(task, template="{label} : {text}")
        group, context = self.context(setting, "adv-text:cosine=-1,rate=1,stop_words=false", task=pair)
        assert set(context.batch.parts[group.regularizer.perturbation.free(context)].tolist()) == {2}

    def test_words_of_two_tokens_are_counted_by_their_marks(self):
        class Tokenizer:
            all_special_ids = (0,)
            mask_token_id = None

            def __len__(self):
                return 5

            def convert_ids_to_tokens(self, ids):
                return [["<s>", "play", "##ing", "the", "##s"][i] for i in ids]

        ids = torch.tensor([[0, 1, 2, 3, 4, 4, 1]])
        found = Vocabulary(Tokenizer(), 6).words(ids, torch.tensor([[True] * 6 + [False]]))
        assert found.tolist() == [[1, 2, 2, 3, 3, 3, 0]]
