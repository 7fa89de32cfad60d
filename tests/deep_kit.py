"""What the tests of deep prompts share: tiny models of three layers, rows for them, and prompts that enter each."""

import torch
from softprompt.backbones import from_model
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.methods import METHODS
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.settings import PromptSettings, Seeds

from kit import targets_of
from tiny import DECODERS, ENCODER_DECODERS, ENCODERS

TEXTS = ["the film was good", "a terrible movie, and not in paris", "yes"]
LAYERS, E = 3, 16
# Word vectors of another width than the states.
NARROW = ("albert", "electra", "opt")
FAMILIES = [family for family in (*ENCODER_DECODERS, *ENCODERS, *DECODERS) if family not in NARROW]
METHODS_WITH_A_PROMPT = [name for name, method in METHODS.items() if method.m and not method.takes_sources]


def depth_of(family):
    """The option of a configuration that says how many layers read the prompt."""
    names = {"bart": "encoder_layers", "gpt2": "n_layer", "distilbert": "n_layers"}
    return {names.get(family, "num_layers" if family in ENCODER_DECODERS else "num_hidden_layers"): LAYERS}


def backbones(tiny_model):
    """What gives a frozen tiny backbone of three layers in float64; Gemma 2 refuses float64."""

    def build(family, answers="auto", dtype=None, engine="auto", **options):
        dtype = dtype or (torch.float32 if family == "gemma2" else torch.float64)
        model, tokenizer = tiny_model(family, dtype=dtype, **{**depth_of(family), **options})
        return from_model(model, tokenizer, answers=answers, engine=engine)

    return build


def batch_of(backbone, texts, owner=None, side="right", words=("good", "bad", "yes")):
    rows = [backbone.tokenizer(text + backbone.input_suffix).input_ids for text in texts]
    width = max(map(len, rows)) + 2
    ids, mask = torch.full((len(rows), width), backbone.pad_id), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, where], mask[i, where] = torch.tensor(row), True
    return TextBatch(ids, mask, torch.tensor(owner or [0] * len(rows)), targets_of(backbone, words[: len(rows)]))


def prompt(method="prompt-tuning", seed=0, deep=True, **changes):
    return PromptSettings(method=method, seeds=Seeds.all(seed), deep=deep, **changes)


def built(backbone, settings):
    """A prompt on a backbone, in float64."""
    return TrainablePrompt.build(
        settings, uniform(), backbone.word_vectors.float(), None, states=backbone.state_scales()
    ).double()


MIXED = (
    prompt("prompt-tuning", 0, lr=0.1, options={"prompt_length": 4}),
    prompt("prompt-tuning", 0, lr=0.1, options={"prompt_length": 4}, deep=False),
    prompt("residual", 1, lr=0.03, options={"bottleneck": 8, "prompt_length": 2}, units="rms"),
    prompt("polar", 2),
)


def kept_model(family, tiny_model, save_tiny, folders):
    """The folder of a tiny model of three layers."""
    return str(save_tiny(folders.mktemp("models") / family, *tiny_model(family, **depth_of(family))))


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, E, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def prompt_batch(first, deep):
    return PromptBatch.stack([first], deep=[deep])


def soft_prompt(backbone, n=2, seed=0, repeats=1):
    first, deep = drawn(n, seed=seed).float(), drawn(LAYERS - 1, n, seed=seed + 1).float()
    provenance = Provenance("imported", backbone.identity(), backbone.answers)
    return SoftPrompt(first, provenance, repeats=repeats, deep=deep)


def gradients(logits, *leaves):
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float32)
    return torch.autograd.grad((logits * weights.to(logits)).sum(), leaves)
