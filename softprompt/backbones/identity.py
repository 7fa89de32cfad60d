"""Which frozen model a prompt belongs to, and whether a model is that one."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelMismatch
from ..prompts.prompt import BackboneIdentity, SoftPrompt
from .family import is_plain
from .rescale.scale import scaling_of, states_scale

# Numbers that are looked at of the first and the last row of a weight: who trains a weight changes nearly all of them.
LOOKED_AT = 64


def identity_of(model: nn.Module, name: str, kind: str, revision: str | None = None) -> BackboneIdentity:
    """What a prompt remembers of this model: its word embeddings, and what they are multiplied by."""
    embeddings: Any = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]  (nn.Module's getattr)
    scaling = scaling_of(model)
    return BackboneIdentity(
        name=name,
        kind=kind,
        embedding_size=embeddings.weight.shape[1],
        embedding_sha256=scaling.original,
        revision=revision,
        embedding_scale=scaling.factor,
        states_scale=states_scale(model),
    )


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over some numbers of every weight: another where layers were trained on, at the cost of no whole pass.

    Names and order of the weights do not count, and weights of quantised kinds are passed over.

    Args:
        model: frozen.

    Returns:
        The digest; empty where weights are on no device, as where a model is larger than those that it is spread over.
    """
    weights = [weight for weight in model.parameters() if is_plain(weight) and weight.numel()]
    if any(weight.is_meta for weight in weights):
        return ""
    return hashlib.sha256(b"".join(sorted({_some_of(weight) for weight in weights}))).hexdigest()


def _some_of(weight: Tensor) -> bytes:
    """A digest of a weight's shape and of numbers at its beginning and at its end, the same on every device."""
    digest = hashlib.sha256(str(tuple(weight.shape)).encode())
    for place in (0, -1):
        row = weight.detach()
        while row.ndim > 1:
            row = row[place]
        row = row if row.ndim else row[None]
        some = row[:LOOKED_AT] if place == 0 else row[-LOOKED_AT:]
        digest.update(some.to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.digest()


def refuse_another_model(prompt: SoftPrompt, ours: BackboneIdentity) -> None:
    """Refuse a prompt whose model had other word embeddings than ours, was of another kind, or is at another scale.

    Raises:
        ModelMismatch: with both names.
    """
    theirs = prompt.provenance.backbone
    sizes = f"(e = {theirs.embedding_size})", f"(e = {ours.embedding_size})"
    both = f"this prompt was trained for {theirs.name!r} {sizes[0]}, this model is {ours.name!r} {sizes[1]}"
    if theirs.embedding_size != ours.embedding_size:
        raise ModelMismatch(f"{both}; a prompt works only with its own model")
    if theirs.embedding_sha256 and theirs.embedding_sha256 != ours.embedding_sha256:
        raise ModelMismatch(f"{both} with other word embeddings; a prompt works only with its own model")
    if theirs.kind != ours.kind:
        raise ModelMismatch(
            f"this prompt is for {theirs.name!r} of kind {theirs.kind}, {ours.name!r} is of kind {ours.kind}; give "
            "its own model, or import it anew if its kind was given wrongly"
        )
    if theirs.embedding_scale != ours.embedding_scale:
        raise ModelMismatch(
            f"this prompt was trained for {theirs.name!r} at embedding scale {theirs.embedding_scale:g}, this model is "
            f"at {ours.embedding_scale:g}; load it with embedding_scale={theirs.embedding_scale:g}, or take "
            f"prompt.at_scale({ours.embedding_scale:g})"
        )


def refuse_another_depth(prompt: SoftPrompt, layers: Sequence[nn.Module], name: str) -> None:
    """Refuse a deep prompt whose model had another number of layers.

    Raises:
        ModelMismatch: with both numbers.
    """
    if prompt.layers != len(layers):
        raise ModelMismatch(
            f"this prompt has vectors for {prompt.layers} layers, {name!r} has {len(layers)}; a deep prompt works only "
            "with its own model"
        )
