"""The packed engine of T5 against the passes of transformers: logits, scores, states, and every gradient."""

import dataclasses
import json
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from softprompt.backbones import _products, from_model, load_backbone, scale_embeddings
from softprompt.backbones.encoder_decoder import EncoderDecoderBackbone
from softprompt.backbones.fast import blocks as _blocks
from softprompt.backbones.fast import frozen_linear as _frozen_linear
from softprompt.backbones.fast import packed as _packed
from softprompt.backbones.fast.blocks import pack, widths_of
from softprompt.backbones.fast.frozen_linear import frozen_linear
from softprompt.backbones.fast.packed import Encoded, PackedT5
from softprompt.cli import main
from softprompt.errors import ModelMismatch, UnknownName, UnsupportedModel
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.settings import ModelSpec, PromptSettings, TrainSettings
from softprompt.training import resume, train
from torch.utils.flop_counter import FlopCounterMode

from kit import review_task, rewrite
from tiny import E, build_model

FAMILIES = ("t5", "t5-v1.1", "mt5")
ONE_BLOCK, NO_PADDING = 1e9, 0.0
PADDED = -100
# One set of examples, always the same.
FIXED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def tiny(family="t5", dtype=torch.float64, seed=0, **options):
    """A tiny model whose norms have gains that are not 1."""
    model, tokenizer = build_model(family, dtype=dtype, seed=seed, **options)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=draw))
    return model, tokenizer


def passes(backbone):
    """The packed engine of a backbone; None where passes are left to transformers."""
    assert isinstance(backbone, EncoderDecoderBackbone)
    return backbone._packed_passes()


def packed_of(backbone) -> PackedT5:
    """The packed engine of a backbone."""
    found = passes(backbone)
    assert found is not None
    return found


def encoded(packed, prompt_batch, batch) -> Encoded:
    """The encoder's states."""
    found = packed.encode(prompt_batch, batch)
    assert found is not None
    return found


def both(model, tokenizer):
    """The same model by either engine."""
    return from_model(model, tokenizer, engine="packed"), from_model(model, tokenizer, engine="reference")


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows(lengths, side="right", labels=(2, 1, 3), owner=None, seed=0, width=None):
    """Rows of these text lengths, padded on a side, with labels of these lengths."""
    draw, width = torch.Generator().manual_seed(seed), width or max(lengths)
    ids = torch.randint(3, 60, (len(lengths), width), generator=draw)
    places = torch.arange(width)
    mask = torch.stack([places < n if side == "right" else places >= width - n for n in lengths])
    many = [labels[i % len(labels)] for i in range(len(lengths))]
    targets = torch.randint(3, 60, (len(lengths), max(many)), generator=draw)
    targets[torch.arange(max(many)) >= torch.tensor(many)[:, None]] = PADDED
    return TextBatch(ids, mask, torch.tensor(owner or [0] * len(lengths)), targets)


@st.composite
def shapes(draw):
    """A model's options, prompts, and rows."""
    text, p = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    b = draw(st.integers(1, 5))
    labels = draw(st.lists(st.integers(1, 4), min_size=b, max_size=b))
    return {
        "family": draw(st.sampled_from(FAMILIES)),
        "model": {
            "num_heads": draw(st.integers(1, 3)),
            "d_kv": draw(st.sampled_from((4, 8))),
            "num_layers": draw(st.integers(2, 3)),
            "num_decoder_layers": draw(st.integers(1, 2)),
        },
        "mask": draw(st.lists(st.lists(st.booleans(), min_size=text, max_size=text), min_size=b, max_size=b)),
        "prompts": draw(st.lists(st.integers(0, 4), min_size=p, max_size=p)),
        "owner": draw(st.lists(st.integers(0, p - 1), min_size=b, max_size=b)),
        "labels": labels,
        "shifted": draw(st.sets(st.sampled_from(("text_delta", "prompt_delta")))),
        "deep": draw(st.booleans()),
        "saving": draw(st.sampled_from((NO_PADDING, 2.0, ONE_BLOCK))),
        "absorbed": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }


def of(shape, layers):
    """The leaves and the batch of a drawn shape."""
    mask, seed = torch.tensor(shape["mask"]), shape["seed"]
    draw = torch.Generator().manual_seed(seed)
    b, n = len(mask), max(shape["prompts"])
    targets = torch.randint(3, 60, (b, max(shape["labels"])), generator=draw)
    targets[torch.arange(targets.shape[1]) >= torch.tensor(shape["labels"])[:, None]] = PADDED
    prompts = [drawn(n, E, seed=seed + i).requires_grad_() for i, n in enumerate(shape["prompts"])]
    deep: list[torch.Tensor | None] = []
    if shape["deep"]:
        # The last prompt stays an ordinary one, where there are two.
        deep = [drawn(layers - 1, n, E, seed=seed + 7 + i).requires_grad_() for i, n in enumerate(shape["prompts"])]
        deep[-1:] = [None] if len(deep) > 1 else deep[-1:]
    wide = {"text_delta": mask.shape[1], "prompt_delta": n}
    shifts = {name: drawn(b, wide[name], E, seed=seed + 99).requires_grad_() for name in shape["shifted"]}
    ids = torch.randint(3, 60, mask.shape, generator=draw)
    batch = TextBatch(ids, mask, torch.tensor(shape["owner"]), targets, **shifts)
    leaves = [*prompts, *(layer for layer in deep if layer is not None), *shifts.values()]
    return [leaf for leaf in leaves if leaf.numel()], PromptBatch.stack(prompts, deep=deep), batch


def close(found, expected, tolerance):
    """Equal to so much of the largest number."""
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1e-9, largest))


def answers(backbone, prompt_batch, batch):
    """Logits at the labels."""
    return backbone.logits(prompt_batch, batch)[batch.targets != PADDED]


def differentiated(backbone, prompt_batch, batch, leaves):
    """Logits at the labels, and the gradients of a random weighing of them."""
    logits = answers(backbone, prompt_batch, batch)
    return logits.detach(), torch.autograd.grad((logits * drawn(*logits.shape, seed=3)).sum(), leaves)


class TestAgainstTransformers:
    @FIXED
    @given(shape=shapes())
    def test_logits_and_every_gradient_are_equal_in_float64(self, shape, exact_norms):
        mask, sizes = torch.tensor(shape["mask"]), torch.tensor(shape["prompts"])
        assume(bool((mask.sum(1) + sizes[torch.tensor(shape["owner"])] > 0).all()))
        packed, reference = both(*tiny(shape["family"], seed=shape["seed"], **shape["model"]))
        packed_of(packed).saving = shape["saving"]
        leaves, prompt_batch, batch = of(shape, shape["model"]["num_layers"])
        assume(leaves)
        with mock.patch.object(_packed, "absorbs", return_value=shape["absorbed"]):
            logits, gradients = differentiated(packed, prompt_batch, batch, leaves)
        expected, wanted = differentiated(reference, prompt_batch, batch, leaves)
        close(logits, expected, 1e-12)
        # Of the largest of all, for one leaf's gradient may be nothing but rounding.
        largest = max(float(gradient.abs().max()) for gradient in wanted)
        for found, right in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(found, right, rtol=0, atol=1e-12 * max(1e-9, largest))

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("least", [0, 1 << 20], ids=["onednn", "torch"])
    def test_logits_are_equal_in_float32(self, family, least, monkeypatch):
        monkeypatch.setattr(_frozen_linear, "WORTHWHILE", least)
        packed, reference = both(*tiny(family, dtype=torch.float32))
        prompt_batch = PromptBatch.stack([drawn(n, E, seed=n, dtype=torch.float32) for n in (4, 1)])
        batch = rows([9, 3, 6, 1], owner=[0, 1, 1, 0])
        close(answers(packed, prompt_batch, batch), answers(reference, prompt_batch, batch), 1e-5)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_bfloat16_is_near_float32(self, family):
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            backbone = from_model(*tiny(family, dtype=dtype), engine="packed")
            found.append(answers(backbone, PromptBatch.stack([drawn(3, E).float()]), rows([9, 3, 6])).float())
        close(found[1], found[0], 0.1)

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("saving", [NO_PADDING, ONE_BLOCK], ids=["no padding", "one block"])
    def test_states_of_the_text_are_equal_where_there_is_text(self, side, saving, exact_norms):
        packed, reference = both(*tiny())
        packed_of(packed).saving = saving
        prompt_batch, batch = PromptBatch.stack([drawn(2, E), drawn(0, E)]), rows([5, 2, 4], side, owner=[0, 1, 0])
        right = torch.arange(5) < torch.tensor([5, 2, 4])[:, None]
        found, expected = (backbone.text_states(prompt_batch, batch)[right] for backbone in (packed, reference))
        close(found, expected, 1e-12)

    @pytest.mark.parametrize("normalize", ["sum", "mean", "first"])
    @pytest.mark.parametrize("chunk", [1, 1 << 25], ids=["in parts", "at once"])
    def test_all_labels_scored_together_are_each_label_scored_alone(self, normalize, chunk, exact_norms, monkeypatch):
        monkeypatch.setattr(_packed, "CHUNK", chunk)
        packed, reference = both(*tiny("t5-v1.1"))
        prompt_batch, batch = PromptBatch.stack([drawn(2, E), drawn(3, E, seed=1)]), rows([5, 2, 4], owner=[1, 0, 1])
        labels = [[5, 9, 1], [7, 1], [8, 6, 4, 1], [9, 1]]
        found, expected = (
            b.label_scores(prompt_batch, batch, labels, normalize=normalize) for b in (packed, reference)
        )
        close(found, expected, 1e-12)

    def test_generated_answers_are_equal(self, exact_norms):
        packed, reference = both(*tiny(initializer_factor=0.5))
        prompt_batch, batch = PromptBatch.stack([drawn(2, E)]), rows([5, 2, 4])
        told = [backbone.generate(prompt_batch, batch, max_new_tokens=5) for backbone in (packed, reference)]
        assert told[0] == told[1]

    def test_a_row_without_prompt_and_text_is_left_to_transformers(self):
        packed, reference = both(*tiny())
        prompt_batch, batch = PromptBatch.stack([drawn(0, E)]), rows([0, 2], width=3)
        assert torch.equal(packed.logits(prompt_batch, batch), reference.logits(prompt_batch, batch))


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


class TestFrozenLinear:
    def test_a_folded_gain_is_the_gain_before_the_product(self):
        x, (a, b), gain = drawn(5, 3), (drawn(2, 3, seed=1), drawn(4, 3, seed=2)), drawn(3, seed=3)
        torch.testing.assert_close(frozen_linear(a, b, library="torch", gain=gain)(x), (x * gain) @ torch.cat([a, b]).T)

    @pytest.mark.skipif(not _products.HAS_ONEDNN, reason="this torch has no oneDNN")
    @pytest.mark.parametrize("rows", [1, 5, 64])
    def test_products_by_onednn_are_torchs(self, rows, monkeypatch):
        x, weight = drawn(rows, 96, dtype=torch.float32), drawn(64, 96, seed=1, dtype=torch.float32)
        gradient, bias = drawn(rows, 64, seed=2, dtype=torch.float32), drawn(64, seed=3, dtype=torch.float32)
        found = []
        monkeypatch.setattr(_frozen_linear, "WORTHWHILE", 0)
        for library in _products.LIBRARIES:
            linear = _frozen_linear.FrozenLinear(weight, library, bias)
            found.append((linear.forward(x), linear.backward(gradient)))
        for a, b in zip(*found, strict=True):
            close(a, b, 1e-6)

    def test_its_gradient_is_autograds(self):
        x, weight = drawn(5, 3).requires_grad_(), drawn(7, 3, seed=1)
        assert torch.autograd.gradcheck(frozen_linear(weight, library="torch"), x)


class TestLibrary:
    @pytest.fixture(autouse=True)
    def measured_anew(self, monkeypatch):
        """What a process measured is forgotten, before and after."""
        monkeypatch.setattr(_products, "HAS_ONEDNN", True)
        _products.faster_library.cache_clear()
        yield
        _products.faster_library.cache_clear()

    @pytest.mark.parametrize(
        ("by_onednn", "by_torch", "expected"),
        [(1.0, 2.0, "onednn"), (1.0, 0.93, "torch"), (1.0, 0.99, "onednn"), (1.0, 1.0, "onednn")],
    )
    def test_the_clearly_faster_library_is_chosen_and_of_equals_onednn(
        self, by_onednn, by_torch, expected, monkeypatch
    ):
        seconds = {_products.by_onednn: by_onednn, torch.nn.functional.linear: by_torch}
        monkeypatch.setattr(_products, "seconds_of", lambda product, x, weight: seconds[product])
        monkeypatch.setenv(_products.VARIABLE, "auto")
        assert _products.chosen_library() == expected
        monkeypatch.delenv(_products.VARIABLE)
        assert _products.chosen_library() == expected

    def test_it_is_measured_once_a_process(self, monkeypatch):
        measured = []
        monkeypatch.setattr(
            _products, "seconds_of", lambda *products: float(len(measured.append(products) or measured))
        )
        monkeypatch.setenv(_products.VARIABLE, "auto")
        assert [_products.chosen_library() for _ in range(3)] == ["onednn"] * 3
        assert len(measured) == 2

    @pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")
    def test_what_is_measured_is_a_time(self):
        x, weight = torch.rand(2, 8, 8).unbind()
        assert all(
            _products.seconds_of(one, x, weight) > 0 for one in (_products.by_onednn, torch.nn.functional.linear)
        )

    def test_the_environment_forces_it_without_measuring(self, monkeypatch):
        monkeypatch.setattr(_products, "seconds_of", lambda *products: pytest.fail("measured"))
        for forced in ("torch", "onednn"):
            monkeypatch.setenv(_products.VARIABLE, forced)
            assert _products.chosen_library() == forced
            assert from_model(*tiny(dtype=torch.float32)).products == forced
            assert from_model(*tiny(dtype=torch.float32), engine="reference").products is None

    def test_a_library_that_does_not_exist_is_refused_with_the_nearest(self, monkeypatch):
        monkeypatch.setenv(_products.VARIABLE, "onedn")
        with pytest.raises(UnknownName, match=r"SOFTPROMPT_PRODUCTS.*'onednn'"):
            _products.chosen_library()

    def test_torch_without_onednn_multiplies_itself(self, monkeypatch):
        monkeypatch.setattr(_products, "HAS_ONEDNN", False)
        assert _products.chosen_library() == "torch"

    def test_the_passes_of_a_backbone_are_multiplied_by_its_library(self, monkeypatch):
        taken = []
        product = _products.by_onednn
        monkeypatch.setattr(_frozen_linear, "by_onednn", lambda x, *w: (taken.append(len(x)), product(x, *w))[1])
        monkeypatch.setattr(_frozen_linear, "WORTHWHILE", 0)
        backbone = from_model(*tiny(dtype=torch.float32), engine="packed")
        prompt_batch, batch = PromptBatch.stack([drawn(2, E, dtype=torch.float32)]), rows([5, 2])
        for library in (*_products.LIBRARIES, *_products.LIBRARIES):
            backbone.products = library
            taken.clear()
            backbone.logits(prompt_batch, batch)
            assert bool(taken) == (library == "onednn")


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


def first_attention(model):
    return model.encoder.block[0].layer[0]


CHANGES = {
    "a matrix": lambda model: first_attention(model).SelfAttention.q.weight.mul_(1.5),
    "a gain": lambda model: model.encoder.block[1].layer[1].layer_norm.weight.mul_(1.5),
    "the last gain": lambda model: model.decoder.final_layer_norm.weight.mul_(1.5),
    "the position table": lambda model: first_attention(model).SelfAttention.relative_attention_bias.weight.mul_(3),
    "all of them": lambda model: model.load_state_dict(tiny(seed=5)[0].state_dict()),
    "other embeddings": lambda model: model.resize_token_embeddings(200),
    "the epsilon": lambda model: setattr(first_attention(model).layer_norm, "variance_epsilon", 0.5),
    "the embedding scale": lambda model: scale_embeddings(model, 8.0),
    "the precision": lambda model: model.double(),
}


class TestChangedWeights:
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    @pytest.mark.filterwarnings("ignore:The tied weights mapping")
    def test_a_change_is_noticed_at_the_next_pass(self, change, exact_norms):
        dtype = torch.float32 if change is CHANGES["the precision"] else torch.float64
        model, tokenizer = tiny(dtype=dtype)
        packed, reference = both(model, tokenizer)
        prompt_batch, batch = PromptBatch.stack([drawn(2, E).to(dtype)]), rows([5, 2])
        before = answers(packed, prompt_batch, batch)
        with torch.no_grad():
            change(model)
        model.requires_grad_(False)
        after = answers(packed, prompt_batch, batch)
        if change not in (CHANGES["the embedding scale"], CHANGES["the precision"]):
            assert before.shape != after.shape or (before - after).abs().max() > 1e-4
        close(after, answers(reference, prompt_batch, batch), 1e-12)

    def test_folded_copies_are_made_once(self):
        backbone = from_model(*tiny(), engine="packed")
        prompt_batch, batch = PromptBatch.stack([drawn(2, E)]), rows([5, 2])
        first = packed_of(backbone)
        backbone.logits(prompt_batch, batch)
        backbone.label_scores(prompt_batch, batch, [[5, 1], [6, 1]])
        assert packed_of(backbone) is first


LATER = {
    "its dropout is on": lambda backbone: backbone.dropout(True),
    "hooks act on its layers": lambda backbone: backbone.gradient_checkpointing(True),
    "its weights are trained": lambda backbone: backbone.model.decoder.requires_grad_(True),
    "of several precisions": lambda backbone: backbone.model.lm_head.bfloat16(),
}


class TestLeftToTransformers:
    def adapted(self, model):
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(target_modules=["q"], init_lora_weights=False)).get_base_model()

    def test_another_kind_asked_to_be_packed_is_refused(self, tiny_gpt):
        with pytest.raises(UnsupportedModel, match="only encoders and encoder-decoders have"):
            from_model(*tiny_gpt("gpt2"), engine="packed")

    def test_an_engine_that_does_not_exist_is_refused_with_the_nearest(self):
        with pytest.raises(UnknownName, match="'packed'"):
            from_model(*tiny(), engine="paked")

    def test_an_adapted_model_is_left_to_transformers_and_it_is_said(self, caplog):
        model, tokenizer = tiny()
        backbone = from_model(self.adapted(model), tokenizer)
        assert backbone.engine == "reference"
        assert [r.message for r in caplog.records] == [
            "'T5ForConditionalGeneration': passes by transformers, not packed: it holds a Linear, which is not T5's"
        ]

    @pytest.mark.parametrize("reason", LATER)
    def test_what_comes_later_is_left_to_transformers_and_said_once(self, reason, caplog):
        backbone = from_model(*tiny("t5-v1.1", dtype=torch.float32), engine="packed")
        LATER[reason](backbone)
        assert passes(backbone) is None
        assert passes(backbone) is None
        assert [reason in record.message for record in caplog.records] == [True]

    def test_a_hook_sees_every_pass(self):
        backbone = from_model(*tiny(), engine="packed")
        seen = []
        handle = backbone.model.encoder.block[0].register_forward_hook(lambda *arguments: seen.append(1))
        prompt_batch, batch = PromptBatch.stack([drawn(2, E)]), rows([5, 2])
        backbone.logits(prompt_batch, batch)
        assert seen == [1]
        handle.remove()
        backbone.logits(prompt_batch, batch)
        assert seen == [1]

    def test_a_transformers_that_computes_something_else_is_noticed(self, monkeypatch, caplog):
        from transformers.models.t5.modeling_t5 import T5LayerFF

        plain = T5LayerFF.forward
        monkeypatch.setattr(T5LayerFF, "forward", lambda self, states: plain(self, 2 * states))
        assert from_model(*tiny()).engine == "reference"
        assert "their logits differ from transformers' by" in caplog.text
        with pytest.raises(UnsupportedModel, match="their logits differ"):
            from_model(*tiny(), engine="packed")


class TestRuns:
    @pytest.fixture
    def folder(self, tmp_path, save_tiny):
        return save_tiny(tmp_path / "model", *build_model("t5"))

    def test_a_run_records_its_engine_and_goes_on_with_no_other(self, folder, tmp_path):
        task, quick = review_task(tmp_path / "data"), TrainSettings(steps=1, eval_every=1, batch_size=4)
        for asked, runs in (("auto", "packed"), ("reference", "reference")):
            run = train(task, str(folder), settings=quick, output=tmp_path / asked, engine=asked)
            assert json.loads((run.folder / "run.json").read_text())["engine"] == runs
            for result in run.folder.glob("*/result.json"):
                result.unlink()
        with pytest.raises(ModelMismatch, match="started with engine='packed'"):
            resume(tmp_path / "auto", model=load_backbone(str(folder), engine="reference"))

    def test_a_run_records_its_library_and_goes_on_with_it(self, folder, tmp_path, monkeypatch):
        """Whatever is chosen when it is resumed; what names none, as older runs do, took oneDNN."""
        task, quick = review_task(tmp_path / "data"), TrainSettings(steps=1, eval_every=1, batch_size=4)
        monkeypatch.setenv(_products.VARIABLE, "torch")
        run = train(task, str(folder), settings=quick, output=tmp_path / "run")
        plan = json.loads((run.folder / "run.json").read_text())
        assert plan["products"] == "torch"
        monkeypatch.setenv(_products.VARIABLE, "onednn")
        for recorded, expected in (("torch", "torch"), (None, "onednn")):
            rewrite(run.folder / "run.json", lambda plan, recorded=recorded: plan.update(products=recorded))
            for result in run.folder.glob("*/result.json"):
                result.unlink()
            backbone = load_backbone(str(folder))
            monkeypatch.setattr(backbone, "products", "torch")
            resume(run.folder, model=backbone)
            assert backbone.products == expected

    def test_a_run_that_names_no_engine_was_the_references(self, folder, tmp_path):
        from softprompt.training._plan import Plan

        plan = Plan(
            task=review_task(tmp_path / "data"),
            model=ModelSpec("m"),
            prompts=(PromptSettings(),),
            settings=TrainSettings(),
        )
        values = dataclasses.replace(plan, model=ModelSpec("m", engine="packed")).to_json()
        del values["engine"]
        assert Plan.from_json(values).model.engine == "reference"

    def test_the_command_line_takes_it(self, folder, tmp_path, capsys):
        task = review_task(tmp_path / "data")
        files = {split: str(path) for split, path in task.source.files.items()}
        command = ["train", "--task", files["train"], "--model", str(folder), "--engine", "referense", "--steps", "1"]
        columns = ["--text-column", "text", "--label-column", "label"]
        assert main([*command, *columns, "--output", str(tmp_path / "run")]) == 2
        assert "unknown engine 'referense'. Did you mean 'reference'?" in capsys.readouterr().err
