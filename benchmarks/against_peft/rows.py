"""Models and rows to train on: random weights in the shapes of T5 and BART, drawn lengths, or real rows."""

import copy
import dataclasses
import gzip
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from softprompt.backbones import AbstractBackbone
from softprompt.data import Examples, Ragged, load_rows
from softprompt.inference.rows import examples_for
from softprompt.tasks import styled, task

# T5 v1.0 and BART: (width, feed-forward, layers of encoder and of decoder, heads, width of a head).
SHAPES = {
    "tiny": (32, 64, 2, 2, 16),
    "t5-small": (512, 2048, 6, 8, 64),
    "t5-base": (768, 3072, 12, 12, 64),
    "t5-large": (1024, 4096, 24, 16, 64),
    "bart-base": (768, 3072, 6, 12, 64),
}
VOCABULARY = {"tiny": 128, "bart-base": 50265}
# What T5, and BART, call the probabilities of their dropout.
DROPOUT = ("dropout_rate", "dropout", "attention_dropout", "activation_dropout")
PAD, END = 0, 1

# A length of text -> tokens of one row, its end of sequence included.
Draw = Callable[[random.Random], int]


def _lognormal(mean: float, sigma: float, least: int, most: int) -> Draw:
    mu = math.log(mean) - sigma**2 / 2
    return lambda source: min(most, max(least, round(source.lognormvariate(mu, sigma))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
    """Rows that are drawn.

    Args:
        draw: tokens of a row.
        most: tokens that the padded baseline pads to.
        answers: fewest and most tokens of an answer.
    """

    draw: Draw
    most: int
    answers: tuple[int, int] = (2, 4)


# "realistic" is the mixture that the design of the packed engine was measured on; "long" is the size of MRQA's
# contexts, cut at 512 as usual there.
DRAWN = {
    "realistic": Lengths(draw=_lognormal(91.6, 0.6, 8, 256), most=256),
    "multirc-like": Lengths(draw=_lognormal(280, 0.25, 32, 348), most=348),
    "long": Lengths(draw=_lognormal(330, 0.5, 64, 512), most=512),
    "tiny": Lengths(draw=_lognormal(12, 0.6, 4, 24), most=24),
}
# MRQA's tasks are not among softprompt's.
MRQA = ("mrqa/squad",)
REAL = ("glue/sst2", "glue/rte", "super_glue/boolq", "super_glue/multirc", *MRQA)
MRQA_TOKENS = 512


def lengths_of(name: str) -> Lengths:
    """Drawn lengths of this name; "equal-N" is rows of N tokens, all answered by 3."""
    kind, _, number = name.partition("-")
    if kind == "equal":
        return Lengths(draw=lambda source: int(number), most=int(number), answers=(3, 3))
    return DRAWN[name]


def random_model(shape: str) -> tuple[Any, Any]:
    """A model with these dimensions and random weights, and a tokenizer that can pad and nothing else."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (_bart if shape.startswith("bart") else _t5)(VOCABULARY.get(shape, 32128), *SHAPES[shape])
    return model.eval(), padding_tokenizer()


def _t5(vocabulary: int, width: int, forward: int, layers: int, heads: int, head: int) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=vocabulary, d_model=width, d_ff=forward, num_layers=layers, num_heads=heads, d_kv=head)
    config.decoder_start_token_id = PAD
    return T5ForConditionalGeneration(config)


def _bart(vocabulary: int, width: int, forward: int, layers: int, heads: int, head: int) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    both: dict[str, Any] = {}
    for half in ("encoder", "decoder"):
        both |= {f"{half}_ffn_dim": forward, f"{half}_layers": layers, f"{half}_attention_heads": heads}
    both |= {"pad_token_id": PAD, "bos_token_id": END, "eos_token_id": END, "decoder_start_token_id": END}
    return BartForConditionalGeneration(BartConfig(vocab_size=vocabulary, d_model=width, **both))


def padding_tokenizer() -> Any:
    """A tokenizer of three pieces: enough for a collator to pad ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = {"<pad>": PAD, "</s>": END, "<unk>": 2}
    inner = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def stored_t5(folder: Path) -> tuple[Any, Any]:
    """The T5 and the tokenizer of a checkpoint's folder."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def twin(model: Any, dropout: float | None = None) -> Any:
    """Another module over the same weights, with its own mode and, if told, another dropout."""
    config = copy.deepcopy(model.config)
    if dropout is not None:
        for name in DROPOUT:
            if hasattr(config, name):
                setattr(config, name, dropout)
    with torch.device("meta"):
        other = type(model)(config)
    other.load_state_dict(model.state_dict(), assign=True)
    other.tie_weights()
    assert not any(p.is_meta for p in (*other.parameters(), *other.buffers()))
    return other.eval().requires_grad_(False)


def drawn_rows(name: str, count: int, vocabulary: int, seed: int = 0) -> Examples:
    """Random tokens in rows of drawn length, answered by a few."""
    source, lengths = random.Random(seed), lengths_of(name)
    inputs = [_row(source, lengths.draw(source), vocabulary) for _ in range(count)]
    targets = [_row(source, source.randint(*lengths.answers), vocabulary) for _ in range(count)]
    return Examples(Ragged.of(inputs), Ragged.of(targets), [0] * count)


def _row(source: random.Random, length: int, vocabulary: int) -> list[int]:
    return [*(source.randrange(3, vocabulary) for _ in range(length - 1)), END]


def real_rows(name: str, backbone: AbstractBackbone, root: Path, count: int, n: int) -> tuple[Examples, int]:
    """Training rows of a task, drawn at random, and the length that it is cut to: classes in numeric style."""
    if name in MRQA:
        return mrqa_rows(root / name / "validation.jsonl.gz", backbone, count), MRQA_TOKENS
    chosen = styled(task(name), "numeric")
    rows = load_rows(chosen, root)["train"]
    drawn = random.Random(0).sample(range(len(rows)), count)
    return examples_for(backbone, chosen, rows.select(drawn), n), chosen.max_length


def mrqa_rows(path: Path, backbone: AbstractBackbone, count: int) -> Examples:
    """The first question of each of some contexts of an MRQA file, answered by the first span that is accepted."""
    with gzip.open(path, "rt") as file:
        next(file)  # a header
        contexts = [json.loads(line) for line in file]
    drawn = random.Random(0).sample(contexts, count)
    pairs = [(record["qas"][0], record["context"]) for record in drawn]
    texts = [f"question: {question['question']} context: {context}" for question, context in pairs]
    inputs = backbone.tokenizer(texts, truncation=True, max_length=MRQA_TOKENS)["input_ids"]
    targets = backbone.encode_answers([question["answers"][0] for question, _ in pairs])
    return Examples(Ragged.of(inputs), Ragged.of(targets), [0] * count)


def batches(count: int, size: int) -> list[list[int]]:
    """Rows 0, 1, 2 ... in batches: they are drawn at random already."""
    return [list(range(i, i + size)) for i in range(0, count, size)]


def tokens(examples: Examples, rows: Sequence[int]) -> int:
    """Tokens of text in these rows, no pads."""
    return int(examples.lengths[list(rows)].sum())
