"""How weights take their places in a model and leave it as it was; their counts."""

import json

import pytest
import torch
from softprompt.backbones import load_backbone
from softprompt.backbones.encoder_decoder import EncoderDecoderBackbone
from softprompt.baselines import BASELINES
from softprompt.baselines.kinds import swap_for
from softprompt.baselines.swap import Start
from softprompt.cli import main
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.methods import METHODS
from transformers import T5Config, T5ForConditionalGeneration


class TestSwap:
    def test_a_tied_table_is_one_parameter_and_stays_tied(self, backbone_of):
        backbone = backbone_of("t5")
        model = backbone.model
        swap = swap_for("full", backbone, {})
        assert swap.count == sum(values.numel() for values in model.parameters())
        own = model.shared.weight
        with swap.applied():
            assert model.shared.weight is model.encoder.embed_tokens.weight is model.lm_head.weight
            assert model.shared.weight is not own
        assert model.shared.weight is own is model.lm_head.weight

    def test_at_the_beginning_it_computes_what_the_model_does(self, backbone_of):
        backbone, ids = backbone_of("gpt2"), torch.arange(3, 15).view(2, 6)
        before = backbone.model(ids).logits
        for kind in BASELINES:
            with swap_for(kind, backbone, METHODS[kind].options).applied():
                logits = backbone.model(ids).logits
            # Adapters begin near zero, not at it.
            assert torch.allclose(logits, before, atol=5e-2 if "adapter" in kind else 0), kind

    def test_adapters_follow_self_attention_and_feed_forward_and_the_lowest_layers_drop_theirs(self, backbone_of):
        def paths(family, kind, **options):
            swap = swap_for(kind, backbone_of(family), {**METHODS[kind].options, **options})
            return {name.partition(".adapter.")[0] for name in swap.names if ".adapter." in name}

        ends = ("layer.0.SelfAttention.o", "layer.{}.DenseReluDense.wo")
        whole = {
            f"{s}.block.{n}.{end.format(f)}"
            for s, f in (("encoder", 1), ("decoder", 2))
            for n in (0, 1)
            for end in ends
        }
        assert paths("t5", "adapter") == whole
        assert paths("t5", "adapter-drop") == {path for path in whole if ".block.1." in path}
        assert paths("t5", "adapter", targets="SelfAttention.q") == {
            f"{stack}.block.{n}.layer.0.SelfAttention.q" for stack in ("encoder", "decoder") for n in (0, 1)
        }
        assert len(paths("bert", "adapter")) == len(paths("opt", "adapter")) == len(paths("llama", "adapter")) == 4

    def test_adapters_of_a_t5_base_have_the_counts_of_the_papers_table_4(self):

        config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config)
        base = object.__new__(EncoderDecoderBackbone)
        base.model, base.name = model, "t5-base"
        # 1.9M and 1.1M there, rounded.
        counts = {kind: swap_for(kind, base, METHODS[kind].options).count for kind in ("adapter", "adapter-drop")}
        assert counts == {"adapter": 1_855_104, "adapter-drop": 1_101_984}
        # 220M, and 77K of 100 vectors.
        assert swap_for("full", base, {}).count == 222_903_552
        assert METHODS["spot"].with_options({"m": 100}).trainable(768) == 76_800


def test_methods_are_counted_in_a_model(capsys):
    assert main(["methods", "list", "--model", "lab-t5-small", "--json"]) == 0
    counts = {row["method"]: row["trainable"] for row in json.loads(capsys.readouterr().out)}
    backbone = load_backbone("lab-t5-small")
    layers = len(backbone.model.encoder.block) + 2 * len(backbone.model.decoder.block)
    assert counts["full"] == sum(values.numel() for values in backbone.model.parameters())
    assert counts["bitfit"] is None
    # PEFT's choice for a T5 are queries and values, of self- and cross-attention, with matrices of rank 8.
    inner = backbone.model.config.num_heads * backbone.model.config.d_kv
    assert counts["lora"] == layers * 2 * 8 * (backbone.embedding_size + inner)
    assert counts["prompt-tuning"] == 10 * backbone.embedding_size


class TestWhatAPrefixBeginsAs:
    @pytest.mark.parametrize("family", ["gpt2", "llama"])
    def test_it_is_what_the_decoder_computes_behind_drawn_words(self, family, backbone_of):
        backbone = backbone_of(family)
        swap = swap_for("prefix-tuning", backbone, METHODS["prefix-tuning"].options, Start(seed=4))
        drawn = torch.Generator().manual_seed(4)
        words = torch.randint(len(backbone.word_vectors), (10,), generator=drawn)
        ids, targets = torch.arange(3, 9)[None], torch.tensor([[5, 6]])
        batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(1, dtype=torch.long), targets)
        nothing = PromptBatch.stack([torch.zeros(0, backbone.embedding_size)])
        with torch.no_grad(), swap.applied():
            logits = backbone.logits(nothing, batch)
        with torch.no_grad():
            whole = backbone.model(torch.cat([words[None], ids, targets[:, :1]], 1)).logits[:, -2:]
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)

    def test_it_differs_with_the_seed_and_is_random_where_layers_share_entries(self, backbone_of):
        def numbers(family, seed):
            options = METHODS["prefix-tuning"].options
            return swap_for("prefix-tuning", backbone_of(family), options, Start(seed)).weights()["prompt_embeddings"]

        assert not torch.equal(numbers("gpt2", 0), numbers("gpt2", 1))
        assert numbers("t5", 0).std().item() == pytest.approx(1, abs=0.05)
