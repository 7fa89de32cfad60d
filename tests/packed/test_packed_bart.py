"""BART and its relatives without padding in their encoder against the passes of transformers."""

import contextlib
import functools
import logging
from typing import Any

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from softprompt.backbones import from_model
from softprompt.backbones.encoder_decoder import EncoderDecoderBackbone
from softprompt.backbones.fast.shared import rows as rows_file
from softprompt.errors import BadInput, UnsupportedModel
from softprompt.prompts.batch import PromptBatch, TextBatch

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
from tiny import E, build_model, build_tokenizer

LABELS = [[7], [9, 12], [11, 13, 14]]
# Learned positions, fixed ones, and a scale on the words that are looked up.
RELATIVES = {
    "MBart": "MBartForConditionalGeneration", "Marian": "MarianMTModel", "Pegasus": "PegasusForConditionalGeneration",
    "Blenderbot": "BlenderbotForConditionalGeneration",
}  # fmt: skip


both = functools.partial(both_engines, EncoderDecoderBackbone)


def exact(seed=0, **options):
    return both(*build_model("bart", dtype=torch.float64, seed=seed, **options))


def relative(family):
    tokenizer = build_tokenizer("t5")
    halves = {f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in
              (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "decoder_start_token_id": 0}
    sizes = {"vocab_size": len(tokenizer), "d_model": E, "max_position_embeddings": 64, "init_std": 0.5}
    config = getattr(transformers, f"{family}Config")(**sizes, **halves, **tokens, scale_embedding=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = getattr(transformers, RELATIVES[family])(config)
    return model.to(torch.float64).eval(), tokenizer


def rows(lengths, owner=None, seed=0):
    """Rows of these text lengths, with two tokens of an answer."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (len(lengths), max(lengths)), generator=draw)
    mask = torch.stack([torch.arange(max(lengths)) < n for n in lengths])
    targets = torch.randint(5, 60, (len(lengths), 2), generator=draw)
    return TextBatch(ids, mask, torch.tensor(owner or [0] * len(lengths)), targets)


@st.composite
def shapes(draw):
    """Prompts, and rows with pads anywhere."""
    text, p, b = draw(st.integers(1, 7)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    return {
        "mask": draw(st.lists(st.lists(st.booleans(), min_size=text, max_size=text), min_size=b, max_size=b)),
        "prompts": draw(st.lists(st.integers(0, 4), min_size=p, max_size=p)),
        "owner": draw(st.lists(st.integers(0, p - 1), min_size=b, max_size=b)),
        "shifted": draw(st.sets(st.sampled_from(("text_delta", "prompt_delta")))),
        "deep": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }


def of(shape):
    """The leaves, the prompts and the rows of a drawn shape."""
    mask, seed = torch.tensor(shape["mask"]), shape["seed"]
    prompts = [drawn(size, E, seed=seed + i).requires_grad_() for i, size in enumerate(shape["prompts"])]
    deep = [drawn(1, size, E, seed=seed + 7 + i).requires_grad_() for i, size in enumerate(shape["prompts"])]
    deep = deep if shape["deep"] else []
    wide = {"text_delta": mask.shape[1], "prompt_delta": max(shape["prompts"])}
    shifts = {name: drawn(len(mask), wide[name], E, seed=seed + 99).requires_grad_() for name in shape["shifted"]}
    draw = torch.Generator().manual_seed(seed)
    ids, targets = (torch.randint(5, 60, (len(mask), n), generator=draw) for n in (mask.shape[1], 2))
    batch = TextBatch(ids, mask, torch.tensor(shape["owner"]), targets, **shifts)
    leaves = [leaf for leaf in (*prompts, *deep, *shifts.values()) if leaf.numel()]
    return leaves, PromptBatch.stack(prompts, [], deep), batch


class TestAgainstTransformers:
    @settings(FIXED, max_examples=12)
    @given(shape=shapes())
    def test_logits_and_every_gradient_are_equal_in_float64(self, shape):
        packed, reference = exact(shape["seed"])
        leaves, prompt_batch, batch = of(shape)
        assume(leaves)
        # Attention over nothing is not a number in both.
        assume(bool(torch.cat([prompt_batch.mask[batch.owner], batch.mask], 1).any(1).all()))
        ours, theirs = packed.logits(prompt_batch, batch), reference.logits(prompt_batch, batch)
        close(ours, theirs, 1e-12)
        same_gradients(differentiated(ours, leaves), differentiated(theirs, leaves), 1e-12)

    @pytest.mark.parametrize("family", RELATIVES)
    def test_scores_states_and_answers_of_its_relatives_are_equal(self, family):
        pair = both(*relative(family))
        prompt_batch = PromptBatch.stack([drawn(2, E), drawn(5, E)])
        batch = rows([5, 2, 9], owner=[0, 1, 0])
        scores = [one.label_scores(prompt_batch, batch, LABELS) for one in pair]
        states = [one.text_states(prompt_batch, batch)[batch.mask] for one in pair]
        answers = [one.answer_ids(prompt_batch, batch, max_new_tokens=4).tolist() for one in pair]
        close(scores[0], scores[1], 1e-12)
        close(states[0], states[1], 1e-12)
        assert answers[0] == answers[1]

    def test_recomputed_layers_give_the_same_gradients(self):
        packed, _ = exact()
        prompt, batch = drawn(3, E).requires_grad_(), rows([5, 2, 7, 5])
        gradients = gradients_with_and_without_recomputing(packed, prompt, batch)
        same_gradients(gradients[1], gradients[0], 1e-13)

    def test_steps_of_a_fleet_end_at_the_same_prompts(self, tmp_path):
        task = review_task(tmp_path / "data")
        ours, theirs = (loop_of(one, task, tmp_path / one.engine, 12) for one in exact())
        assert len(ours) == len(theirs)
        for mine, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-9)


class TestWork:
    def test_the_encoder_computes_no_padding(self):
        packed, _ = exact()
        counted, first, plain = [], packed.stack.layers[0].fc1, torch.nn.Linear.forward
        first.forward = lambda x: counted.append(x.shape[:2].numel()) or plain(first, x)
        packed.logits(PromptBatch.stack([drawn(4, E), drawn(2, E)]), rows([9, 5, 7], owner=[0, 1, 0]))
        assert counted == [(4 + 9) + (2 + 5) + (4 + 7)]

    def test_all_rows_together_may_have_more_positions_than_one(self):
        packed, reference = exact()
        prompt_batch, batch = PromptBatch.stack([drawn(4, E)]), rows([40, 50, 60])
        close(packed.logits(prompt_batch, batch), reference.logits(prompt_batch, batch), 1e-12)

    def test_a_row_that_is_too_long_is_refused(self):
        packed, _ = exact()
        with pytest.raises(BadInput, match="need 66 positions"):
            packed.logits(PromptBatch.stack([drawn(4, E)]), rows([3, 62]))


class TestChoice:
    def test_positions_that_are_counted_through_the_sequence_are_noticed(self, monkeypatch):
        monkeypatch.setattr(rows_file, "_read_at", lambda table, layout: contextlib.nullcontext())
        # The table has as many positions as the sequence.
        assert from_model(*build_model("bart", max_position_embeddings=128)).engine == "reference"

    def test_a_transformers_with_another_attention_is_noticed(self, monkeypatch, caplog):
        hide_the_first_key(monkeypatch)
        with caplog.at_level(logging.WARNING, logger="softprompt"):
            assert from_model(*build_model("bart")).engine == "reference"
        assert "differ from transformers'" in caplog.text

    def test_a_family_that_counts_columns_itself_is_left_to_transformers_with_one_line(self, caplog):
        with caplog.at_level(logging.WARNING, logger="softprompt"):
            assert from_model(*build_model("umt5")).engine == "reference"
        (line,) = (record.getMessage() for record in caplog.records)
        assert line.endswith("passes by transformers, the rows padded: its layers are not told the positions of tokens")
        with pytest.raises(UnsupportedModel, match="cannot be packed: its layers are not told"):
            from_model(*build_model("umt5"), engine="packed")

    def test_a_pass_of_the_user_counts_columns_while_a_packed_one_runs(self):
        packed, _ = exact()
        ids = torch.tensor([[5, 6, 7]])
        expected = packed.stack(input_ids=ids).last_hidden_state
        assert packed._rows is not None
        layout = packed._rows.passes._layout(PromptBatch.stack([drawn(2, E)]), rows([3]), torch.ones(1, 3).bool())
        with rows_file._read_at(packed.stack.embed_positions, layout):
            close(packed.stack(input_ids=ids).last_hidden_state, expected, 0)
