"""Recipes of the built-in backbones: architecture, tokenizer, and the settings of pretraining."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from softprompt.errors import pick
from softprompt.world import vocabulary
from torch import Tensor

from .heads import look_beside, look_for_the_like, say_where, set_apart

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, END, UNKNOWN, MASK, START, SEPARATOR = "<pad>", "</s>", "<unk>", "<mask>", "<s>", "<sep>"
SPECIAL = (PAD, END, UNKNOWN, MASK, START, SEPARATOR)
HEADS = 4
POSITIONS = 160
# Logit with which a word meets its like in the head that starts out comparing words.
MATCH = 4.0
# Standard deviation of BERT's and GPT-2's matrices, whose word vectors are drawn with 1: theirs, 0.02, and 0.09, with
# which a layer keeps its input's size, are both slower.
DRAWN = 0.04


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One backbone, made the same whenever it is made.

    Args:
        kind: "encoder-decoder", "encoder" or "decoder".
        width: hidden and embedding size.
        feed_forward: width of the feed-forward layers.
        layers: of the encoder, or of the only stack.
        decoder_layers: of an encoder-decoder's decoder.
        steps: optimiser steps.
        first_steps: of them, how many ask the first kinds of questions only.
        batch_size: questions a step.
        lr: AdamW's at its peak.
        seed: of weights and questions.
        embedding_scale: the trained table is multiplied by this (and what is added to it), the function unchanged.
            A power of two, so that every weight keeps its bits.
    """

    kind: str
    width: int
    feed_forward: int
    layers: int
    decoder_layers: int = 0
    steps: int
    first_steps: int = 2500
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    embedding_scale: float = 1.0


RECIPES: dict[str, Recipe] = {
    # T5's own tokens have coordinates of about 30; prompts meet the same scale here.
    "lab-t5": Recipe(
        kind="encoder-decoder", width=128, feed_forward=192, layers=3, decoder_layers=2, steps=7_000,
        first_steps=1500, lr=5e-4, embedding_scale=32.0,
    ),
    "lab-t5-small": Recipe(
        kind="encoder-decoder", width=64, feed_forward=96, layers=3, decoder_layers=2, steps=12_000, lr=1.5e-3,
        embedding_scale=32.0,
    ),
    "lab-bert": Recipe(
        kind="encoder", width=128, feed_forward=256, layers=4, steps=6_000, first_steps=3000, batch_size=32, lr=1e-3,
    ),
    "lab-gpt": Recipe(
        kind="decoder", width=128, feed_forward=256, layers=4, steps=10_000, first_steps=3000, batch_size=32, lr=1e-3,
    ),
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """The recipe of a built-in backbone.

    Raises:
        UnknownName: with the nearest known name.
    """
    return pick("built-in backbone", name, RECIPES)


def build_tokenizer(kind: str) -> "PreTrainedTokenizerFast":
    """One token a word of the world; special tokens as the kind of backbone has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate((*SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "encoder-decoder":
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, ids[END])])
    elif kind == "encoder":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {SEPARATOR}", special_tokens=[(START, ids[START]), (SEPARATOR, ids[SEPARATOR])]
        )
    special: dict[str, Any] = {"mask_token": MASK, "eos_token": END}
    if kind == "encoder":
        special = {"mask_token": MASK, "cls_token": START, "sep_token": SEPARATOR}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, clean_up_tokenization_spaces=False, **special
    )


def build_model(recipe: Recipe) -> "PreTrainedModel":
    """The untrained model, its weights drawn from the recipe's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        return _BUILDERS[recipe.kind](recipe)


def _t5(recipe: Recipe) -> "PreTrainedModel":
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(SPECIAL) + len(vocabulary()),
            d_model=recipe.width,
            d_kv=recipe.width // HEADS,
            d_ff=recipe.feed_forward,
            num_layers=recipe.layers,
            num_decoder_layers=recipe.decoder_layers,
            num_heads=HEADS,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=16,
            relative_attention_max_distance=64,
            pad_token_id=SPECIAL.index(PAD),
            eos_token_id=SPECIAL.index(END),
            # Read by the base class, of which the type checker does not know.
            **{"tie_word_embeddings": True, "decoder_start_token_id": SPECIAL.index(PAD)},
        )
    )
    _look_around(model.encoder)
    return model


@torch.no_grad()
def _look_around(encoder: Any) -> None:
    """Start T5's heads with one on equal words, one on the word before, one on the word after, one on those near.

    All layers share the table of relative positions. Words compare themselves with others, not with themselves.
    """
    table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()  # [buckets, heads]
    table[_bucket(encoder, 0), 0] = -4.0
    table[_bucket(encoder, -1), 1] = table[_bucket(encoder, 1), 2] = 4.0
    distances = torch.arange(-POSITIONS, POSITIONS + 1)
    buckets = _bucket(encoder, distances)
    for bucket in range(len(table)):
        if len(near := distances[buckets == bucket]):
            table[bucket, 3] = -near.abs().float().mean() / 2
    for block in encoder.block:
        attention = block.layer[0].SelfAttention
        size = attention.key_value_proj_dim
        _match(attention.q.weight[:size], attention.k.weight[:size], 1.0)


def _match(query: Tensor, key: Tensor, scale: float) -> None:
    """Make a head attend to equal words: key = c query, so that a normalised word meets its like with logit 4.

    Args:
        query: rows of one head, [size, width], as drawn.
        key: likewise, overwritten.
        scale: what the model multiplies its logits with.
    """
    # A normalised state of width e has squared length e, so its query has e x mean square x size.
    key.copy_(query * (MATCH / (query.square().sum() * scale)))


def _bucket(encoder: Any, distance: Any) -> Any:
    return (
        encoder.block[0]
        .layer[0]
        .SelfAttention._relative_position_bucket(
            torch.as_tensor(distance), bidirectional=True, num_buckets=16, max_distance=64
        )
    )


def _bert(recipe: Recipe) -> "PreTrainedModel":
    from transformers import BertConfig, BertForMaskedLM

    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(SPECIAL) + len(vocabulary()),
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=HEADS,
            intermediate_size=recipe.feed_forward,
            max_position_embeddings=POSITIONS,
            pad_token_id=SPECIAL.index(PAD),
            initializer_range=DRAWN,
        )
    )
    tables: Any = model.bert.embeddings
    layers: Any = model.bert.encoder.layer
    attentions = [(layer.attention.self, layer.attention.output.dense.weight) for layer in layers]
    _begin(
        tables.word_embeddings.weight,
        tables.position_embeddings.weight,
        model.cls.predictions.transform.LayerNorm.weight,
        [
            (attention.query.weight, attention.key.weight, attention.value.weight, output)
            for attention, output in attentions
        ],
        beside=(-1, 1),
        seed=recipe.seed,
    )
    return model


def _gpt(recipe: Recipe) -> "PreTrainedModel":
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(SPECIAL) + len(vocabulary()),
            n_positions=POSITIONS,
            n_embd=recipe.width,
            n_layer=recipe.layers,
            n_head=HEADS,
            n_inner=recipe.feed_forward,
            bos_token_id=SPECIAL.index(START),
            eos_token_id=SPECIAL.index(END),
            pad_token_id=SPECIAL.index(PAD),
            initializer_range=DRAWN,
        )
    )
    stack: Any = model.transformer
    _begin(
        stack.wte.weight,
        stack.wpe.weight,
        stack.ln_f.weight,
        # Queries, keys and values side by side, inputs in rows.
        [(*block.attn.c_attn.weight.T.chunk(3), block.attn.c_proj.weight.T) for block in stack.h],
        # No word sees the one after it.
        beside=(-1, -2),
        seed=recipe.seed,
    )
    return model


@torch.no_grad()
def _begin(
    words: Tensor,
    positions: Tensor,
    last: Tensor,
    attentions: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    *,
    beside: tuple[int, int],
    seed: int,
) -> None:
    """Start one head of each layer on equal words; in the first layer on other ones, and two heads on words beside.

    Args:
        words: word vectors, [vocabulary, width].
        positions: position vectors, [positions, width].
        last: the weight of the last norm, whose states meet the word vectors to make logits.
        attentions: query, key, value and output of each layer, [outputs, inputs].
        beside: where the two heads look.
        seed: of everything drawn here.
    """
    width = words.shape[1]
    size, draw = width // HEADS, torch.Generator().manual_seed(seed)
    set_apart(words, positions, size, draw)
    # Logits of about 1, as if the word vectors were not that large.
    last.fill_(width**-0.5)
    for number, (query, key, value, output) in enumerate(attentions):
        first = slice(size)
        look_for_the_like(query[first], key[first], draw, itself=number > 0)
        if number == 0:
            say_where(value[first], output[:, first], draw)
            for head, distance in enumerate(beside, 1):
                rows = slice(head * size, (head + 1) * size)
                look_beside(query[rows], key[rows], distance)


_BUILDERS = {"encoder-decoder": _t5, "encoder": _bert, "decoder": _gpt}
