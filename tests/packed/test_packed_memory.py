"""What the packed T5 keeps for the backward pass, how rows lie in blocks, and its form of the cross-attention."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from softprompt.backbones import _products, from_model
from softprompt.backbones.fast import blocks as _blocks
from softprompt.backbones.fast import packed as _packed
from softprompt.backbones.fast.blocks import pack, widths_of
from softprompt.backbones.fast.frozen_linear import frozen_linear
from softprompt.prompts.batch import PromptBatch
from torch.utils.flop_counter import FlopCounterMode

from engine_kit import drawn
from packed_kit import FIXED, NO_PADDING, ONE_BLOCK, encoded, packed_of, rows, tiny
from tiny import E


class TestWhatIsKept:
    def kept(self, model, function):
        """The saved tensors that are not the model's own, each storage once."""
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        found = {}

        def keep(tensor):
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = function()
        assert result.requires_grad
        return [tensor for address, tensor in found.items() if (address not in own and tensor.is_floating_point())
                or tensor.dtype == torch.bool]  # fmt: skip

    @pytest.mark.parametrize("gated", [False, True])
    def test_the_encoder_keeps_so_many_numbers_and_no_more(self, gated):
        """For r positions: n and 1/rms before each sublayer; Q, K, V; a byte a number of a ReLU, or gelu's argument."""
        model, tokenizer = tiny("t5-v1.1" if gated else "t5", num_layers=3, num_heads=3, d_kv=4, d_ff=32)
        backbone = from_model(model, tokenizer, engine="packed")
        packed = packed_of(backbone)
        packed.saving = NO_PADDING
        prompt = drawn(2, E).requires_grad_()
        prompt_batch, batch = PromptBatch.stack([prompt]), rows([30, 4, 4])
        positions, of_prompt, layers, inner = 30 + 4 + 4 + 6, 6, 3, 3 * 4
        kept = self.kept(model, lambda: encoded(packed, prompt_batch, batch).states)
        numbers = sum(tensor.numel() for tensor in kept if tensor.is_floating_point())
        norms = (layers + (layers - 1) + 1) * positions + of_prompt
        # The last norm, and a copy of what passes into it, are of the whole encoder.
        gelu = layers * positions * 2 * 32 if gated else 0
        assert numbers == norms * (E + 1) + layers * positions * 3 * inner + gelu
        masks = sum(tensor.numel() for tensor in kept if tensor.dtype == torch.bool)
        assert masks == (0 if gated else layers * positions * 32)

    def test_no_row_is_kept_at_the_width_of_another(self):
        model, tokenizer = tiny(dtype=torch.float32)
        backbone = from_model(model, tokenizer, engine="packed")
        packed_of(backbone).saving = NO_PADDING
        prompt = drawn(2, E, dtype=torch.float32).requires_grad_()
        prompt_batch, batch = PromptBatch.stack([prompt]), rows([40, 2, 3, 2], labels=(2,))
        kept = self.kept(model, lambda: backbone.logits(prompt_batch, batch))
        padded, real = 4 * 42, 40 + 2 + 3 + 2 + 4 * 2
        assert real < padded
        assert not {dimension for tensor in kept for dimension in tensor.shape} & {padded, padded - 8}
        squares = [tensor for tensor in kept if tensor.shape[-2:] == (42, 42)]
        assert squares == []

    def test_a_product_with_a_frozen_matrix_keeps_nothing(self):
        x, weight = drawn(5, 3).requires_grad_(), drawn(7, 3, seed=1)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
            frozen_linear(weight, library="onednn")(x)
        assert kept == []

    def test_second_derivatives_are_refused(self):
        backbone = from_model(*tiny(), engine="packed")
        prompt = drawn(2, E).requires_grad_()
        logits = backbone.logits(PromptBatch.stack([prompt]), rows([5, 2]))
        (gradient,) = torch.autograd.grad(logits.square().sum(), prompt, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


class TestBlocks:
    @FIXED
    @given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), saving=st.floats(0, 60))
    def test_no_row_is_padded_by_more_than_a_block_costs(self, lengths, saving):
        lengths = sorted(lengths, reverse=True)
        widths = widths_of(lengths, saving)
        assert all(0 <= width - length <= saving for width, length in zip(widths, lengths, strict=True))
        # And no block begins without need.
        starts = [i for i in range(1, len(widths)) if widths[i] != widths[i - 1]]
        assert all(widths[i - 1] - lengths[i] > saving for i in starts)

    @FIXED
    @given(
        mask=st.integers(1, 6).flatmap(
            lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=6)
        ),
        saving=st.sampled_from((NO_PADDING, 1.0, ONE_BLOCK)),
    )
    def test_what_is_packed_and_unpacked_is_as_before(self, mask, saving):
        mask = torch.tensor(mask)
        packing = pack(mask, saving)
        if packing is None:
            assert not mask.any(1).all()
            return
        states = drawn(*mask.shape, 2)
        found = packing.unpacked(states[packing.rows, packing.columns])
        assert torch.equal(found, states * mask[:, :, None])
        assert sum(block.count * block.width for block in packing.blocks) == len(packing.rows)

    def test_rows_of_a_block_stand_in_the_order_of_their_text(self):
        packing = pack(torch.tensor([[True, False, True], [True, True, True]]), NO_PADDING)
        assert packing is not None
        assert packing.rows.tolist() == [1, 1, 1, 0, 0]
        assert packing.columns.tolist() == [0, 1, 2, 0, 2]

    def test_tiny_layers_take_one_block_and_wide_ones_no_padding(self, lab_t5):
        assert packed_of(lab_t5).saving > 10
        assert _blocks.CALL["cpu"] / (2 * 3_145_728) < 1  # the encoder layer of t5-small


class TestCrossAttention:
    @pytest.mark.parametrize("labels", [1, 4, 16, 64])
    @pytest.mark.parametrize("trained", [False, True])
    def test_the_form_with_fewer_operations_is_taken(self, labels, trained, monkeypatch):
        monkeypatch.setenv(_products.VARIABLE, "torch")
        packed = packed_of(from_model(*tiny(dtype=torch.float32, num_heads=2, d_kv=4), engine="packed"))
        prompt = drawn(2, E, dtype=torch.float32).requires_grad_(trained)
        batch, counted = rows([200, 200]), {}
        states = encoded(packed, PromptBatch.stack([prompt]), batch)
        for absorbed in (True, False):
            monkeypatch.setattr(_packed, "absorbs", lambda *arguments, absorbed=absorbed: absorbed)
            with FlopCounterMode(display=False) as counter:
                found = packed.decode(states, torch.full((2, 1, labels), 5))
                if trained:
                    torch.autograd.grad(found.sum(), prompt, retain_graph=True)
            counted[absorbed] = counter.get_total_flops()
        monkeypatch.undo()
        fewer = counted[True] < counted[False]
        # The crossing itself is where queries and outputs, which both forms project, begin to count.
        if abs(counted[True] - counted[False]) > 0.1 * counted[False]:
            assert _packed.absorbs(labels, E, 4, trained) == fewer
