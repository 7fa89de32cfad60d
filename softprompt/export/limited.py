"""Prompts of T5s compiled to their limit, if its error on rows of the task is within a tolerance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from ..backbones import AbstractBackbone
from ..checks import require_numbers
from ..data import drawn_rows
from ..errors import BadInput, CannotExport
from ..inference.asked import task_of
from ..inference.predict import as_row, texts_or_rows
from ..inference.rows import examples_for
from ..inference.scoring import NEW_TOKENS
from ..interop.attach import attach
from ..prompts.prompt import SoftPrompt
from ._card import Spread, card
from .embeds import plain
from .limit import PromptLimit, encoder_decoder_for, limit_of

# Rows of the task on which the error is measured, and how many are answered at once.
ROWS, BATCH = 64, 16

LOAD = """\
import json

import torch
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.modeling_outputs import BaseModelOutput

about, tensors = json.load(open("limit.json", encoding="utf-8")), load_file("limit.safetensors")
tokenizer = AutoTokenizer.from_pretrained(about["model"], revision=about["revision"])
model = AutoModelForSeq2SeqLM.from_pretrained(about["model"], revision=about["revision"]).eval()
n, m = about["length"], len(tensors["states"])  # m vectors, repeated to n positions


@torch.no_grad()
def encoded(ids, mask):
    encoder, b, t = model.encoder, *ids.shape
    bias = encoder.block[0].layer[0].SelfAttention.compute_bias(n + t, n + t)[:, :, n:]
    prompt = bias[..., :n].unflatten(-1, (n // m, m)).logsumexp(-2)  # equal vectors are one key
    pads = torch.zeros(b, t).masked_fill(mask == 0, -torch.inf)
    bias = torch.cat([prompt.expand(b, -1, -1, -1), bias[..., n:] + pads[:, None, None]], -1)
    x = encoder.embed_tokens(ids)
    for layer, block in enumerate(encoder.block):
        part, inner = block.layer[0], block.layer[0].SelfAttention
        read = part.layer_norm(x)
        q, k, v = (f(read).unflatten(-1, (inner.n_heads, -1)).transpose(1, 2) for f in (inner.q, inner.k, inner.v))
        k, v = (torch.cat([tensors[f"{layer}.{name}"].expand(b, -1, -1, -1), y], 2)
                for name, y in (("keys", k), ("values", v)))
        y = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        x = block.layer[-1](x + inner.o(y.transpose(1, 2).flatten(2)))
    prompt = tensors["states"].repeat(n // m, 1).expand(b, -1, -1)
    states = torch.cat([prompt, encoder.final_layer_norm(x)], 1)
    whole = torch.cat([mask.new_ones(b, n), mask], 1)
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "attention_mask": whole}


texts, beams = ["a text", "another, longer text"], 1
whole = tokenizer([about["before"] + text + about["after"] for text in texts], add_special_tokens=about["special"])
rows = [ids[len(about["skipped"]) :] for ids in whole.input_ids]
rows = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
inputs = encoded(rows.input_ids, rows.attention_mask)
answers = model.generate(**inputs, num_beams=beams, {greedy}, max_new_tokens={new_tokens})
print(tokenizer.batch_decode(answers, skip_special_tokens=True))
"""


@final
@dataclass(frozen=True)
class LimitError:
    """How far the answers of the limit are from those of the prompt itself.

    Args:
        largest: the largest total variation distance of two distributions of the next token, 0 to 1. No probability of
            a token, or of any set of tokens, differs by more.
        mean: over the tokens of all answers.
        rows: number of rows.
    """

    largest: float
    mean: float
    rows: int


def export_limit(
    prompt: SoftPrompt,
    folder: "str | Path",
    *,
    model: "str | Path | AbstractBackbone | None" = None,
    calibration: Any = None,
    data_root: "str | Path | None" = None,
    tolerance: float = 0.01,
    licence: str = "other",
    spread: "Spread | None" = None,
) -> Path:
    """Write a T5's prompt as constant keys and values, with a recipe that needs transformers alone.

    Args:
        prompt: a prompt of a T5 or mT5 of large norm.
        folder: where.
        model: the frozen model; None loads the one that the prompt names.
        calibration: texts or rows on which the error is measured; None takes 64 validation rows of the prompt's task.
        data_root: folder with the rows of the task.
        tolerance: the largest error, see `LimitError`.
        licence: an identifier of the hub.
        spread: scores over seeds.

    Raises:
        CannotExport: the error is above the tolerance; and as in `limit_of`.
        BadInput: the folder exists, or there are no rows to measure on.
    """
    require_numbers({"tolerance": tolerance}, zero=True)
    backbone = encoder_decoder_for(prompt, model)
    limit = limit_of(prompt, model=backbone)
    error = limit_error(limit, prompt, backbone, calibration, data_root)
    if not error.largest <= tolerance:
        norms = prompt.vectors.norm(dim=1)
        raise CannotExport(
            f"in the limit of a large norm this prompt answers otherwise: on {error.rows} rows a probability differs "
            f"by up to {error.largest:.2g}, {tolerance:g} is allowed (the norms are {norms.min():.3g} to "
            f"{norms.max():.3g}); use the prompt itself, or allow more by --tolerance"
        )
    readme = card(
        prompt,
        title="A compiled soft prompt",
        sentence=(
            "These are the constant keys and values of its limit for a large norm. "
            f"On {error.rows} rows no probability of a next token differs by more than {error.largest:.2g} from the "
            f"prompt's own, {error.mean:.2g} in the mean. It needs transformers 5 and safetensors."
        ),
        load=LOAD,
        licence=licence,
        spread=spread,
    )
    measured = {"largest_error": error.largest, "mean_error": error.mean, "rows": error.rows, "tolerance": tolerance}
    return limit.save(folder, readme, measured)


@torch.no_grad()
def limit_error(
    limit: PromptLimit,
    prompt: SoftPrompt,
    backbone: AbstractBackbone,
    calibration: Any = None,
    data_root: "str | Path | None" = None,
) -> LimitError:
    """The error of a limit along the prompt's own greedy answers.

    Args:
        limit: of the prompt.
        prompt: the prompt itself.
        backbone: their frozen model.
        calibration: as in `export_limit`.
        data_root: as in `export_limit`.

    Raises:
        BadInput: there are no rows.
    """
    rows, attached = _rows(limit, prompt, backbone, calibration, data_root), attach(plain(prompt), backbone.model)
    errors = [
        _errors(limit, attached, backbone, *padded(rows[start : start + BATCH], backbone.pad_id))
        for start in range(0, len(rows), BATCH)
    ]
    apart = torch.cat(errors)
    return LimitError(float(apart.max()), float(apart.mean()), len(rows))


def _errors(limit: PromptLimit, attached: Any, backbone: AbstractBackbone, ids: Tensor, mask: Tensor) -> Tensor:
    """The total variation distances at each token of each row's answer."""
    ids, mask = ids.to(backbone.device), mask.to(backbone.device)
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": NEW_TOKENS}
    answers = attached.generate(ids, attention_mask=mask, **options)
    read = answers[:, :-1]
    expected = attached(input_ids=ids, attention_mask=mask, decoder_input_ids=read).logits
    logits = backbone.model(**limit.inputs(ids, mask, backbone.model), decoder_input_ids=read).logits
    apart = (logits.float().softmax(-1) - expected.float().softmax(-1)).abs().sum(-1) / 2
    # Behind the end of an answer there is nothing to answer; the token that starts one may be a pad itself.
    ended = torch.isin(read, torch.tensor([backbone.pad_id, *backbone.ends], device=read.device))
    ended[:, 0] = False
    return apart[ended.cumsum(1) == 0]


def _rows(
    limit: PromptLimit, prompt: SoftPrompt, backbone: AbstractBackbone, calibration: Any, data_root: "str | Path | None"
) -> list[list[int]]:
    if prompt.provenance.task is None:
        if calibration is None:
            raise BadInput("this prompt records no task with rows to measure the error on; give texts by --calibration")
        given = limit.encode(texts_or_rows(calibration), backbone.tokenizer)
        return [
            row[keep.bool()].tolist() for row, keep in zip(given["input_ids"], given["attention_mask"], strict=True)
        ]
    task = task_of(prompt)
    if calibration is None:
        rows, _ = drawn_rows(task, data_root, split="validation", count=ROWS)
    else:
        rows = [as_row(task, text) for text in texts_or_rows(calibration)]
    examples = examples_for(backbone, task, rows, prompt.length, targets=False)
    return [examples.inputs.row(number).tolist() for number in range(len(examples))]


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Ids and mask of rows, padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
