"""What the tests of other formats share: tiny models that show a lost prompt, and made-up prompts."""

from typing import Any

import torch
from softprompt.prompts.prompt import BackboneIdentity, LinearHead, Provenance, SoftPrompt

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bad", "good", "film", "plot", "review", ":", "sentence"]
PADS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0}


def tiny_models():
    """One random model of each kind, whose answers show whether a prompt was lost."""
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(5)  # with which every row generates something else without its prompt
    v = len(WORDS)
    t5 = T5Config(vocab_size=v, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, **PADS)
    bert = BertConfig(vocab_size=v, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    gpt2 = GPT2Config(vocab_size=v, n_embd=16, n_layer=2, n_head=2, n_positions=64, **PADS)
    models = {
        "encoder-decoder": T5ForConditionalGeneration(t5),
        "encoder": BertForMaskedLM(bert),
        "decoder": GPT2LMHeadModel(gpt2),
    }
    for model in models.values():
        model.eval().requires_grad_(False)
        # Matrices only, and a lot: with small weights or with biases every input generates the same.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape) * 0.7)
    return models


def a_prompt(kind="encoder-decoder", answers="tokens", *, name="a/model", m=3, e=16, repeats=1, seed=0) -> SoftPrompt:
    generator = torch.Generator().manual_seed(seed)
    head = None
    if answers == "linear-head":
        head = LinearHead(torch.randn(3, 16, generator=generator), torch.randn(3, generator=generator))
    provenance = Provenance(
        method="ept-star",
        backbone=BackboneIdentity(name, kind, e, "0" * 64),
        answers=answers,
        task={"name": "films", "template": "review : {film} plot", "labels": ["bad", "good"], "max_length": 64},
        metrics={"validation": {"accuracy": 0.75}},
        seeds={"initialization": 3},
    )
    return SoftPrompt(torch.randn(m, e, generator=generator), provenance, repeats, head)
