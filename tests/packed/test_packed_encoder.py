"""The encoders' passes without padding against the passes of transformers: logits, states, every gradient."""

import dataclasses
import functools
import logging
from typing import Any

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from softprompt.backbones import from_model
from softprompt.backbones.encoder import EncoderBackbone
from softprompt.backbones.fast.shared import attention, groups, switch
from softprompt.backbones.fast.shared import rows as rows_file
from softprompt.backbones.fast.shared.layout import lay_out_whole
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import LinearHead

from engine_kit import (
    FIXED,
    both_engines,
    close,
    differentiated,
    drawn,
    gradients_with_and_without_recomputing,
    hide_the_first_key,
    loop_of,
    same_gradients,
)
from kit import review_task
from tiny import ENCODERS, E, build_model, build_tokenizer

# MPNet computes an attention of its own.
EXACT = tuple(family for family in ENCODERS if family != "mpnet")


both = functools.partial(both_engines, EncoderBackbone)


def exact(family="bert", head=True, seed=0, **options):
    return both(*build_model(family, head=head, dtype=torch.float64, seed=seed, **options))


def head_of(backbone, seed=0, classes=3, dtype=torch.float64):
    return LinearHead(drawn(classes, backbone.hidden_size, seed=seed, dtype=dtype), drawn(classes, dtype=dtype))


def rows(backbone, lengths, owner=None, seed=0):
    """Rows of these text lengths, each of which ends with a mask where the model answers by one."""
    width = max(lengths)
    ids = torch.randint(5, 60, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    mask = torch.stack([torch.arange(width) < n for n in lengths])
    if backbone.mask is not None:
        ids[range(len(lengths)), [n - 1 for n in lengths]] = backbone.tokenizer.mask_token_id
    return TextBatch(ids, mask, torch.tensor(owner or [0] * len(lengths)))


@st.composite
def shapes(draw):
    """A family, prompts, and rows that hold at least one token each."""
    text, p, b = draw(st.integers(1, 7)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    return {
        "family": draw(st.sampled_from(EXACT)),
        "mask": draw(st.lists(st.lists(st.booleans(), min_size=text, max_size=text), min_size=b, max_size=b)),
        "prompts": draw(st.lists(st.integers(0, 4), min_size=p, max_size=p)),
        "owner": draw(st.lists(st.integers(0, p - 1), min_size=b, max_size=b)),
        "shifted": draw(st.sets(st.sampled_from(("text_delta", "prompt_delta")))),
        "deep": draw(st.booleans()),
        "head": draw(st.booleans()),
        "short": draw(st.sampled_from((0, attention.SHORT))),
        "saving": draw(st.sampled_from((0.0, 6.0))),
        "pairs": draw(st.sampled_from((1, 1 << 17))),
        "early": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }


def of(shape, backbone):
    """The leaves, the prompts and the rows of a drawn shape."""
    mask, seed, e = torch.tensor(shape["mask"]), shape["seed"], backbone.embedding_size
    prompts = [drawn(size, e, seed=seed + i).requires_grad_() for i, size in enumerate(shape["prompts"])]
    deep: list[torch.Tensor | None] = []
    # States that are wider than words, or layers that are one module, allow no deep prompts.
    if shape["deep"] and shape["family"] not in ("albert", "electra"):
        deep = [drawn(1, size, e, seed=seed + 7 + i).requires_grad_() for i, size in enumerate(shape["prompts"])]
        deep[-1:] = [None] if len(deep) > 1 else deep[-1:]
    heads = [] if shape["head"] else [head_of(backbone, seed=i) for i in range(len(prompts))]
    wide = {"text_delta": mask.shape[1], "prompt_delta": max(shape["prompts"])}
    shifts = {name: drawn(len(mask), wide[name], e, seed=seed + 99).requires_grad_() for name in shape["shifted"]}
    ids = torch.randint(5, 60, mask.shape, generator=torch.Generator().manual_seed(seed))
    # The last token of each row, wherever its pads are.
    ids[range(len(mask)), mask.shape[1] - 1 - mask.flip(1).to(torch.uint8).argmax(1)] = backbone.tokenizer.mask_token_id
    batch = TextBatch(ids, mask, torch.tensor(shape["owner"]), **shifts)
    leaves = [*prompts, *(layer for layer in deep if layer is not None), *shifts.values()]
    return [leaf for leaf in leaves if leaf.numel()], PromptBatch.stack(prompts, heads, deep), batch


class TestAgainstTransformers:
    @settings(FIXED, max_examples=12)
    @given(shape=shapes())
    def test_logits_and_every_gradient_are_equal_in_float64(self, shape, monkeypatch):
        assume(bool(torch.tensor(shape["mask"]).any(1).all()))
        monkeypatch.setattr(attention, "SHORT", shape["short"])
        monkeypatch.setitem(groups.SAVING, "cpu", shape["saving"])
        monkeypatch.setitem(groups.PAIRS, "cpu", shape["pairs"])
        packed, reference = exact(shape["family"], shape["head"], shape["seed"])
        packed._packed.passes.runner.ends_early &= shape["early"]
        leaves, prompt_batch, batch = of(shape, packed)
        assume(leaves)
        ours, theirs = packed.logits(prompt_batch, batch), reference.logits(prompt_batch, batch)
        close(ours, theirs, 1e-12)
        same_gradients(differentiated(ours, leaves), differentiated(theirs, leaves), 1e-12)

    @pytest.mark.parametrize("head", [True, False], ids=["label words", "linear head"])
    def test_scores_of_label_words_and_classes_are_equal(self, head):
        packed, reference = exact("roberta", head)
        heads = [] if head else [head_of(packed), head_of(packed, 1)]
        prompt_batch = PromptBatch.stack([drawn(2, E), drawn(0, E)], heads)
        batch, labels = rows(packed, [5, 2, 4], owner=[0, 1, 0]), [[7], [9], [11]]
        ours, theirs = (one.label_scores(prompt_batch, batch, labels) for one in (packed, reference))
        close(ours, theirs, 1e-12)

    def test_states_of_the_text_are_equal(self):
        packed, reference = exact(head=False)
        prompt_batch, batch = PromptBatch.stack([drawn(9, E)]), rows(packed, [5, 2, 9])
        ours, theirs = (one.text_states(prompt_batch, batch)[batch.mask] for one in (packed, reference))
        close(ours, theirs, 1e-12)

    def test_recomputed_layers_give_the_same_gradients(self):
        packed, _ = exact()
        prompt, batch = drawn(3, E).requires_grad_(), rows(packed, [5, 2, 7, 5])
        gradients = gradients_with_and_without_recomputing(packed, prompt, batch)
        same_gradients(gradients[1], gradients[0], 1e-13)

    def test_bfloat16_is_near_float32(self):
        ours = []
        for dtype in (torch.float32, torch.bfloat16):
            packed = from_model(*build_model("bert", dtype=dtype, initializer_range=0.1), engine="packed")
            ours.append(packed.logits(PromptBatch.stack([drawn(3, E).float()]), rows(packed, [9, 3, 6])).float())
        close(ours[1], ours[0], 0.1)


def modern_bert():
    """A tiny ModernBERT: rotary positions, and windows of three tokens in its second layer."""
    tokenizer = build_tokenizer("bert")
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=E, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, local_attention=2, layer_types=["full_attention", "sliding_attention"],
        pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = transformers.ModernBertForMaskedLM(config)
    return model.to(torch.float64).eval(), tokenizer


class TestFamilies:
    def test_a_window_is_counted_over_prompt_and_text(self):
        packed, reference = both(*modern_bert())
        prompt = drawn(4, E).requires_grad_()
        batch = rows(packed, [9, 3, 7])
        ours, theirs = (one.logits(PromptBatch.stack([prompt]), batch) for one in (packed, reference))
        close(ours, theirs, 1e-6)
        same_gradients(differentiated(ours, [prompt]), differentiated(theirs, [prompt]), 1e-6)

    def test_a_family_with_an_attention_of_its_own_is_left_to_transformers_with_one_line(self, caplog):
        with caplog.at_level(logging.WARNING, logger="softprompt"):
            assert from_model(*build_model("mpnet")).engine == "reference"
        (line,) = (record.getMessage() for record in caplog.records)
        assert "passes by transformers, the rows padded: its attention is its own" in line
        assert "\n" not in line
        with pytest.raises(UnsupportedModel, match="leave engine='packed' out"):
            from_model(*build_model("mpnet"), engine="packed")

    def test_the_built_in_encoder_is_packed(self, lab_bert):
        assert lab_bert.engine == "packed"

    def test_a_decoder_has_no_packed_passes(self, tiny_gpt):
        with pytest.raises(UnsupportedModel, match="only encoders and encoder-decoders have"):
            from_model(*tiny_gpt(), engine="packed")


class TestProbe:
    @pytest.mark.parametrize("head", [True, False], ids=["label words", "linear head"])
    def test_a_transformers_with_another_attention_is_noticed_and_not_contradicted(self, head, monkeypatch, caplog):
        model, tokenizer = build_model("bert", head=head)
        hide_the_first_key(monkeypatch)
        with caplog.at_level(logging.WARNING, logger="softprompt"):
            assert from_model(model, tokenizer).engine == "reference"
        assert "differ from transformers'" in caplog.text

    def test_positions_that_are_counted_through_the_sequence_are_noticed(self, monkeypatch):
        options = rows_file.RowPasses._options

        def counted(self, prompt_batch, layout, x):
            through = dataclasses.replace(layout, positions=torch.arange(len(layout.positions)))
            return options(self, prompt_batch, through, x)

        monkeypatch.setattr(rows_file.RowPasses, "_options", counted)
        assert from_model(*build_model("bert", max_position_embeddings=128)).engine == "reference"

    def test_layers_that_are_one_module_are_given_all_positions(self):
        ends_early = [exact(family)[0]._packed.passes.runner.ends_early for family in ("albert", "bert")]
        assert ends_early == [False, True]


class TestModelOfTheUser:
    def test_the_attention_that_the_user_chose_is_kept_and_said(self, caplog):
        model, tokenizer = build_model("bert")
        model.set_attn_implementation("eager")
        with caplog.at_level(logging.INFO, logger="softprompt"):
            packed = from_model(model, tokenizer)
        assert "attention 'eager' stays" in caplog.text
        packed.logits(PromptBatch.stack([drawn(3, E).float()]), rows(packed, [4, 2]))
        assert (packed.engine, model.config._attn_implementation) == ("packed", "eager")

    def test_the_attention_is_given_back_after_a_crash(self, monkeypatch):
        packed, reference = exact()
        batch, prompt_batch = rows(packed, [4, 2]), PromptBatch.stack([drawn(3, E)])
        expected = reference.logits(prompt_batch, batch)

        def crash(*arguments):
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(attention.Scores, "context", crash)
            with pytest.raises(ZeroDivisionError):
                packed.logits(prompt_batch, batch)
        assert packed.model.config._attn_implementation == "sdpa"
        assert switch.current_layout() is None
        close(reference.logits(prompt_batch, batch), expected, 0)

    @pytest.mark.parametrize("reason", ["hooks act on its layers", "its dropout is on"])
    def test_what_cannot_be_packed_is_left_to_transformers_with_one_line(self, reason, caplog):
        packed, reference = exact(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        batch, prompt_batch = rows(packed, [4, 2]), PromptBatch.stack([drawn(3, E)])
        expected = reference.logits(prompt_batch, batch)
        if reason == "its dropout is on":
            packed.dropout(True)
        else:
            packed.layers[0].register_forward_hook(lambda *arguments: None)
        with caplog.at_level(logging.WARNING, logger="softprompt"):
            for _ in range(2):
                close(packed.logits(prompt_batch, batch), expected, 0)
        assert caplog.text.count(reason) == 1

    @pytest.mark.parametrize("head", [True, False], ids=["label words", "linear head"])
    def test_a_row_that_is_too_long_is_refused(self, head):
        packed, _ = exact(head=head)
        prompt_batch = PromptBatch.stack([drawn(4, E)], [] if head else [head_of(packed)])
        with pytest.raises(BadInput, match="need 66 positions"):
            packed.logits(prompt_batch, rows(packed, [3, 62]))


class TestWork:
    def test_nothing_is_padded(self):
        packed, _ = exact()
        batch = rows(packed, [9, 5, 7], owner=[0, 1, 0])
        prompt_batch = PromptBatch.stack([drawn(4, E), drawn(2, E)])
        layout = lay_out_whole(prompt_batch, batch, batch.mask, device=torch.device("cpu"))
        assert len(layout.tokens) == (4 + 9) + (2 + 5) + (4 + 7)

    def test_all_rows_together_may_have_more_positions_than_one(self):
        packed, reference = exact()
        prompt_batch, batch = PromptBatch.stack([drawn(4, E)]), rows(packed, [40, 50, 60])
        close(packed.logits(prompt_batch, batch), reference.logits(prompt_batch, batch), 1e-12)

    @pytest.mark.parametrize(("head", "expected"), [(True, 3), (False, 9)], ids=["label words", "linear head"])
    def test_the_last_layer_computes_what_is_behind_its_attention_where_it_is_read(self, head, expected):
        packed, _ = exact(head=head)
        base: Any = packed.base
        counted, down, plain = [], base.encoder.layer[-1].output.dense, torch.nn.Linear.forward
        down.forward = lambda x: counted.append(x.shape[1]) or plain(down, x)
        prompt_batch = PromptBatch.stack([drawn(4, E)], [] if head else [head_of(packed)])
        packed.logits(prompt_batch, rows(packed, [4, 3, 2]))
        assert counted == [expected]

    def test_rows_of_another_prompt_do_not_see_what_is_not_a_number(self):
        packed, _ = exact()
        broken = drawn(2, E)
        broken[0, 0] = torch.nan
        prompts = [broken.requires_grad_(), drawn(4, E, seed=1).requires_grad_()]
        logits = packed.logits(PromptBatch.stack(prompts), rows(packed, [5, 3, 6, 2], owner=[0, 1, 1, 0]))
        is_broken = torch.tensor([True, False, False, True])
        assert logits[is_broken].isnan().all()
        assert not logits[~is_broken].isnan().any()
        (gradient,) = torch.autograd.grad(logits.nansum() + logits[~is_broken].sum(), prompts[1:])
        assert not gradient.isnan().any()

    def test_rows_in_parts_have_the_gradients_of_all_rows_at_once(self):
        """Where memory is short, rows are computed in parts."""
        packed, _ = exact(head=False)
        prompt, batch = drawn(3, E).requires_grad_(), rows(packed, [5, 2, 7, 5])

        def gradient(parts):
            prompt_batch = PromptBatch.stack([prompt], [head_of(packed)])
            logits = [packed.logits(prompt_batch, batch.select(torch.tensor(part)).trimmed()) for part in parts]
            return torch.autograd.grad(torch.cat(logits).square().sum(), [prompt])

        same_gradients(gradient([[2], [0, 3], [1]]), gradient([[0, 1, 2, 3]]), 1e-12)


def test_steps_of_a_fleet_end_at_the_same_prompts(tmp_path):
    task = review_task(tmp_path / "data")
    packed, reference = exact(head=False)
    ours, theirs = (loop_of(one, task, tmp_path / one.engine, 12) for one in (packed, reference))
    assert len(ours) == len(theirs)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-9)
