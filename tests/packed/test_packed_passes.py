"""The packed engine of T5 against the passes of transformers: logits, scores, states, and every gradient."""

from unittest import mock

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from softprompt.backbones import from_model
from softprompt.backbones.fast import frozen_linear as _frozen_linear
from softprompt.backbones.fast import packed as _packed
from softprompt.prompts.batch import PromptBatch, TextBatch

from engine_kit import close, drawn
from packed_kit import FAMILIES, FIXED, NO_PADDING, ONE_BLOCK, PADDED, answers, both, packed_of, rows, tiny
from tiny import E


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
