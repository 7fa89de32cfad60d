"""Prefix tuning (Li and Liang, 2021, arXiv:2101.00190) and cartridges (Eyuboglu et al., 2025, arXiv:2506.06266).

Both train keys and values that a decoder attends to before everything else, in the layout and by the formula of PEFT:
n positions of 2 x layers x width numbers. For an encoder-decoder, PEFT puts them before the decoder's self-attention
and takes the keys of layer i from entry 4 i, its values from entry 4 i + 1, of the 2 x layers entries, counted round
and round: the other entries have no effect.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..backbones.family import KINDS
from ..backbones.prefix import KeysAndValues, read_cache
from ..errors import BadInput, UnsupportedModel
from ..prompts.seeds import seeded
from .swap import Place, Start, Swap

NAME, FROZEN = "prompt_embeddings", "frozen_embeddings"
# What a prefix may begin as.
BEGINS = ("auto", "words", "random")


@final
class TrainedPrefix(nn.Module):
    """Keys and values as PEFT stores them, of which the first positions may be frozen.

    Args:
        numbers: the trained positions.
        frozen: the positions before them.
        heads: number of heads with keys and values of their own.
        depth: number of layers.
        skips: whether only every other pair of entries is read, as PEFT does for an encoder-decoder.
    """

    frozen: Tensor

    def __init__(
        self, numbers: Float[Tensor, "n w"], frozen: Float[Tensor, "f w"], heads: int, depth: int, skips: bool
    ):
        super().__init__()
        self.numbers = nn.Parameter(numbers)
        self.register_buffer("frozen", frozen)
        self.heads, self.depth, self.skips = heads, depth, skips

    @property
    def length(self) -> int:
        """Number of positions, the frozen ones among them."""
        return len(self.frozen) + len(self.numbers)

    def layers(self) -> Sequence[KeysAndValues]:
        """Return the keys and values of each layer."""
        whole = torch.cat([self.frozen, self.numbers])
        entries = whole.view(self.length, 2 * self.depth, self.heads, -1).permute(1, 2, 0, 3)
        step = 4 if self.skips else 2
        places = [step * layer % len(entries) for layer in range(self.depth)]
        return [(entries[place], entries[place + 1]) for place in places]


def prefix_tuning(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return a new prefix: the model's own keys and values of drawn words, or normally distributed numbers as PEFT's.

    Section 7.4 of the paper finds that activations of words are the better beginning. A pretrained decoder rests most
    of its attention on the first position, which random numbers do not offer.

    Args:
        backbone: the model, which stays as it is.
        options: `length`, the number of positions; `begins`, "words" (decoders only), "random", or "auto": words where
            the model can.
        start: its seed gives the words or the numbers.

    Raises:
        BadInput: a length below 1, or another beginning.
        UnsupportedModel: an encoder, a decoder that does not keep keys and values of one size in each layer, or words
            for an encoder-decoder.
    """
    n, begins = _length(options), options["begins"]
    if begins not in BEGINS:
        raise BadInput(f"a prefix begins as one of {', '.join(BEGINS)}, not as {begins!r}")
    if begins == "words" and backbone.kind == "encoder-decoder":
        raise UnsupportedModel(
            f"layers of {backbone.name!r} share entries of a prefix, so they cannot begin as each layer's own keys and "
            "values of words; give --method-option begins=random"
        )
    if begins != "random" and backbone.kind == "decoder":
        return _begun_as(backbone, "prefix-tuning", _tokens(backbone, "", n, start.seed))
    depth, heads, size = sizes(backbone)
    with seeded(start.seed, torch.device("cpu")):
        numbers = torch.randn(n, 2 * depth * heads * size)
    return _swap(backbone, numbers, numbers[:0].clone(), heads, depth)


def cartridge(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return the keys and values that the model itself has for the first tokens of a text.

    Args:
        backbone: the model, which stays as it is.
        options: `length`, the number of positions; `frozen`, how many of the first ones are not trained; `text`, of
            which the numbers come, empty for random tokens.
        start: its seed gives the random tokens.

    Raises:
        BadInput: a length below 1, no position that is trained, or a text of fewer tokens than positions.
        UnsupportedModel: no decoder, or one that does not keep keys and values of one size in each layer.
    """
    n, frozen = _length(options), options["frozen"]
    if not 0 <= frozen < n:
        raise BadInput(f"a cartridge of {n} positions can freeze 0 to {n - 1} of them, not {frozen}")
    if backbone.kind != "decoder":
        raise UnsupportedModel(
            f"'cartridge' begins as a decoder's own cache of a text, and {backbone.name!r} is an {backbone.kind}; "
            "choose 'prefix-tuning' or 'lora'"
        )
    return _begun_as(backbone, "cartridge", _tokens(backbone, options["text"], n, start.seed), frozen)


def restored(backbone: AbstractBackbone, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Swap:
    """Return a prefix of either method, into which stored numbers can be loaded.

    Raises:
        UnsupportedModel: the model cannot have one.
    """
    depth, heads, size = sizes(backbone)
    frozen, width = options.get("frozen", 0), 2 * depth * heads * size
    numbers = torch.zeros(options["length"] - frozen, width)
    return _swap(backbone, numbers, torch.zeros(frozen, width), heads, depth)


def sizes(backbone: AbstractBackbone) -> tuple[int, int, int]:
    """Return the number of layers of a decoder, of its heads with keys and values of their own, and their size.

    Raises:
        UnsupportedModel: no decoder, or one whose layers keep other things than keys and values of one size.
    """
    layers = _cache_of(backbone, "prefix-tuning", [0])
    _, heads, _, size = layers[0][0].shape
    return len(layers), heads, size


def _begun_as(backbone: AbstractBackbone, method: str, ids: Sequence[int], frozen: int = 0) -> Swap:
    """Return a prefix that is the decoder's own cache of these tokens, of which the first may be frozen."""
    layers = _cache_of(backbone, method, ids)
    entries = torch.stack([part[0] for layer in layers for part in layer])
    numbers = entries.permute(2, 0, 1, 3).flatten(1).float().cpu()
    if len(numbers) < len(ids):
        raise UnsupportedModel(
            f"{backbone.name!r} keeps {len(numbers)} positions, not {len(ids)}; give a smaller length"
        )
    return _swap(backbone, numbers[frozen:].clone(), numbers[:frozen].clone(), entries.shape[1], len(layers))


def _swap(backbone: AbstractBackbone, numbers: Tensor, frozen: Tensor, heads: int, depth: int) -> Swap:
    skips = backbone.kind == "encoder-decoder"
    prefix = TrainedPrefix(numbers, frozen, heads, depth, skips).to(backbone.device)
    kept = {FROZEN: prefix.frozen} if len(frozen) else {}
    return Swap({NAME: prefix.numbers}, [Place(backbone, "prefix", None, prefix)], kept=kept)


def _length(options: Mapping[str, Any]) -> int:
    if options["length"] < 1:
        raise BadInput(f"a prefix needs a length of at least 1, not {options['length']}")
    return options["length"]


def _tokens(backbone: AbstractBackbone, text: str, n: int, seed: int) -> list[int]:
    """Return the first n tokens of the text, or random ones."""
    if not text:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(len(backbone.word_vectors), (n,), generator=generator).tolist()
    ids = list(backbone.tokenizer(text).input_ids)
    if len(ids) < n:
        raise BadInput(
            f"a cartridge of {n} positions begins as so many tokens, its text has {len(ids)}; give a longer text or "
            f"--method-option length={len(ids)}"
        )
    return ids[:n]


@torch.no_grad()
def _cache_of(backbone: AbstractBackbone, method: str, ids: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values that each layer of the decoder has for these tokens."""
    if backbone.kind == "encoder":
        raise UnsupportedModel(
            f"{method!r} needs a decoder, which attends to a cache, and {backbone.name!r} is an encoder; choose "
            "'lora' or a deep prompt"
        )
    if backbone.recomputes:
        raise UnsupportedModel(
            f"{method!r} cannot be recomputed in the backward pass; leave --gradient-checkpointing out"
        )
    tokens = torch.tensor([list(ids)], device=backbone.device)
    if backbone.kind == "decoder":
        output = backbone.stack(inputs_embeds=backbone.embed(tokens), use_cache=True)
        return read_cache(output.past_key_values, backbone.name)
    if backbone.model.config.model_type not in KINDS:
        raise UnsupportedModel(
            f"{method!r} is known for decoders and the families of T5 and BART, not for {backbone.name!r} "
            f"({backbone.model.config.model_type}); choose 'lora'"
        )
    output = backbone.model(input_ids=tokens, decoder_input_ids=tokens, use_cache=True)
    return read_cache(output.past_key_values.self_attention_cache, backbone.name)
