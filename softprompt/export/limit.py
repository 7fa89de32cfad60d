"""Compiled prompts of T5 and mT5: the limit of a prompt whose norm dwarfs what the layers add to it.

A layer adds an update to each state x, and reads it as x / rms(x). Where the norm of a prompt vector p dwarfs all
updates, every layer therefore reads u = p / rms(p), whatever the text is. With the gain g of a layer's norm, the vector
is a constant key W_k (g * u) and a constant value W_v (g * u) in that layer, and a constant state after the last one.
The encoder then reads the text alone, beside these keys. Its position bias b depends on distances, so the r copies of a
vector that is repeated have the same key and different biases. They are one key with the score q k + log sum exp b. The
decoder has no such bias, so there the sum is ln r; but stock `generate` takes no mask of floats, so it reads r states.

The limit is exact for an infinite norm. For a prompt of norm |p| the error is of the order |updates| / |p|, so it is
measured, and `export_limit` refuses a prompt whose error is above a tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ..backbones import AbstractBackbone
from ..backbones.fast.packed import survey
from ..errors import BadInput, CannotExport
from ..prompts.prompt import SoftPrompt
from ..store import json_bytes, read_folder, read_json, read_tensors, tensor_bytes, write_folder
from ._decoder import InputFormat, frozen_for, input_format
from .compiled import layer_tensors
from .embeds import plain

TENSORS, SETTINGS, CARD = "limit.safetensors", "limit.json", "README.md"


@final
@dataclass(frozen=True, eq=False)
class PromptLimit:
    """A prompt of a T5 in the limit of large norms.

    Args:
        keys: of each layer of the encoder.
        values: likewise.
        states: what the decoder reads of each vector.
        length: number n of positions that the prompt takes, m vectors repeated n / m times.
        model: hub id or folder of the frozen model.
        revision: its commit on the hub.
        input_format: how a text is written.
    """

    keys: Sequence[Float[Tensor, "h m k"]]
    values: Sequence[Float[Tensor, "h m k"]]
    states: Float[Tensor, "m d"]
    length: int
    model: str
    revision: str | None
    input_format: InputFormat

    def encode(self, texts: Sequence[str], tokenizer: Any) -> Any:
        """The ids of texts with template and all, and their mask, padded on the right.

        Raises:
            BadInput: a text changes the words before it that the prompt stands for.
        """
        form = self.input_format
        rows = tokenizer([form.before + text + form.after for text in texts], add_special_tokens=form.special)
        skipped = list(form.skipped)
        for number, row in enumerate(rows["input_ids"], 1):
            if list(row[: len(skipped)]) != skipped:
                raise BadInput(f"text {number} changes the tokens that the prompt begins as; leave it out")
        ids = [list(row[len(skipped) :]) for row in rows["input_ids"]]
        return tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")

    @torch.no_grad()
    def inputs(self, ids: Int[Tensor, "b t"], mask: Int[Tensor, "b t"], model: Any) -> dict[str, Any]:
        """Arguments of the model's `generate` or `forward`: the states of prompt and text, and their mask.

        Args:
            ids: of the texts.
            mask: 1 where there is text, on the left.
            model: the frozen model.

        Raises:
            BadInput: a text is padded on the left.
        """
        from transformers.modeling_outputs import BaseModelOutput

        if bool((mask.diff(dim=1) > 0).any()):
            raise BadInput("these texts are padded on the left, where positions of a T5 begin; pad them on the right")
        text = model.encoder.final_layer_norm(self._read(ids, mask, model.encoder))
        prompt = self.states.to(text).repeat(self.length // len(self.states), 1)
        states = torch.cat([prompt.expand(len(ids), -1, -1), text], 1)
        whole = torch.cat([mask.new_ones(len(ids), self.length), mask], 1)
        output: Any = BaseModelOutput(last_hidden_state=states)  # pyright: ignore[reportArgumentType]  (wants FloatTensor)
        return {"encoder_outputs": output, "attention_mask": whole}

    def _read(self, ids: Tensor, mask: Tensor, encoder: Any) -> Float[Tensor, "b t d"]:
        """The text's states after the last layer, each layer reading the prompt's constant keys."""
        x = encoder.embed_tokens(ids)
        bias = self._bias(encoder.block[0].layer[0].SelfAttention, _infinite_at_pads(mask, x))
        for block, *constant in zip(encoder.block, self.keys, self.values, strict=True):
            part = block.layer[0]
            inner, read = part.SelfAttention, part.layer_norm(x)
            query, *both = (_heads(linear(read), inner.n_heads) for linear in (inner.q, inner.k, inner.v))
            keys, values = (
                torch.cat([c.to(y).expand(len(y), -1, -1, -1), y], 2) for c, y in zip(constant, both, strict=True)
            )
            context = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
            x = block.layer[-1](x + inner.o(context.transpose(1, 2).flatten(2)))
        return x

    def _bias(self, attention: Any, pads: Float[Tensor, "b t"]) -> Float[Tensor, "b h t s"]:
        """The position bias of text positions to the m keys, copies summed up, and to the text."""
        n, m, size = self.length, len(self.states), self.length + pads.shape[1]
        whole = attention.compute_bias(size, size)[:, :, n:]
        prompt = whole[..., :n].unflatten(-1, (n // m, m)).logsumexp(-2)
        text = whole[..., n:] + pads[:, None, None]
        return torch.cat([prompt.expand(len(text), -1, -1, -1), text], -1)

    def save(self, folder: "str | Path", readme: str, more: dict[str, Any]) -> Path:
        """Write the folder that `load` and the recipe of its README read.

        Args:
            folder: where.
            readme: its README.
            more: what else is recorded.

        Raises:
            BadInput: the folder exists.
        """
        tensors = layer_tensors(self.keys, self.values)
        about = {
            "model": self.model,
            "revision": self.revision,
            "layers": len(self.keys),
            "length": self.length,
            **self.input_format.to_json(without=["opening", "ends"]),
        }
        contents = {
            TENSORS: tensor_bytes({**tensors, "states": self.states}),
            SETTINGS: json_bytes({**about, "measured": more}),
            CARD: readme.encode(),
        }
        return write_folder(Path(folder), contents, what="the compiled prompt")

    @classmethod
    def load(cls, folder: "str | Path") -> "PromptLimit":
        """Read a folder that `save` wrote.

        Raises:
            BadInput: there is no such folder.
            DamagedFile: a file in it is not as it was written.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise BadInput(
                f"{str(folder)!r} holds no {SETTINGS}; give a folder of `softprompt compile`, of a T5's prompt"
            )
        read_folder(folder)
        about, tensors = read_json(folder / SETTINGS), read_tensors(folder / TENSORS, is_bounded=False)
        layers = range(about.pop("layers"))
        del about["measured"]
        keys, values = ([tensors[f"{layer}.{name}"] for layer in layers] for name in ("keys", "values"))
        length, model, revision = (about.pop(name) for name in ("length", "model", "revision"))
        return cls(keys, values, tensors["states"], length, model, revision, InputFormat(**about))


@torch.no_grad()
def limit_of(prompt: SoftPrompt, *, model: "str | Path | AbstractBackbone | None" = None) -> PromptLimit:
    """The limit of a prompt as its norm grows; its error for this norm is not known yet.

    Args:
        prompt: a prompt of a T5 or mT5, not a deep one.
        model: the frozen model; None loads the one that the prompt names.

    Raises:
        CannotExport: another model, a deep prompt, a vector without a direction, or a task of several columns.
        ModelMismatch: the prompt belongs to another model.
    """
    backbone = encoder_decoder_for(prompt, model)
    prompt = plain(prompt)
    vectors = prompt.vectors.to(backbone.device, backbone.dtype)
    if prompt.length == 0 or not bool(vectors.abs().amax(1).all()):
        raise CannotExport(
            "this prompt has no vectors, or one of only zeros, so it has no limit; use the prompt itself"
        )
    direction = vectors * vectors.square().mean(1, keepdim=True).rsqrt()
    encoder, keys, values = backbone.model.encoder, [], []
    for block in encoder.block:
        inner, read = block.layer[0].SelfAttention, block.layer[0].layer_norm.weight * direction
        keys.append(_heads(inner.k(read)[None], inner.n_heads)[0].contiguous())
        values.append(_heads(inner.v(read)[None], inner.n_heads)[0].contiguous())
    origin = prompt.provenance.backbone
    return PromptLimit(
        keys,
        values,
        encoder.final_layer_norm.weight * direction,
        prompt.length,
        origin.name,
        origin.revision,
        input_format(prompt, backbone),
    )


def encoder_decoder_for(prompt: SoftPrompt, model: Any) -> AbstractBackbone:
    """The frozen T5 of a prompt.

    Raises:
        CannotExport: the model is none; and as in `frozen_for`.
        ModelMismatch: the prompt belongs to another model.
    """
    backbone = frozen_for(plain(prompt), model)
    if (reason := survey(backbone.model).unfit) is not None:
        raise CannotExport(f"only prompts of T5 and mT5 have this limit, and of {backbone.name!r} {reason}")
    return backbone


def _heads(states: Float[Tensor, "b t hk"], heads: int) -> Float[Tensor, "b h t k"]:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _infinite_at_pads(mask: Int[Tensor, "b t"], like: Tensor) -> Float[Tensor, "b t"]:
    """What is added to scores: 0, and minus infinity at pads."""
    return like.new_zeros(mask.shape).masked_fill(mask == 0, -torch.inf)
