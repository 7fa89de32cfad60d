"""A prompt and its frozen model as one ONNX graph: token ids and mask in, logits out."""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..backbones.family import embedded, first_position
from ..errors import BadInput, CannotExport
from ..interop.recipes import tokenizing
from ..prompts.prompt import SoftPrompt
from ._card import Spread, card
from ._decoder import frozen_for
from ._place import building
from .embeds import plain

LOAD = """\
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({source})
session = onnxruntime.InferenceSession("model.onnx")
texts = tokenizer([{text}], {special}return_tensors="np")  # several texts: padding=True, padding_side="right"
inputs = {{name: texts[name]{held} for name in ("input_ids", "attention_mask")}}
(logits,) = session.run(None, inputs)
print(logits.shape)
"""


@final
class Graph(nn.Module):
    """The prompt before texts that are padded on the right, the model, and the prompt's linear head if it has one.

    Args:
        backbone: an encoder or a decoder.
        prompt: its prompt.
    """

    def __init__(self, backbone: AbstractBackbone, prompt: SoftPrompt):
        super().__init__()
        self.model, self.kind = backbone.model, backbone.kind
        self.body: Any = backbone.stack if prompt.head is not None else backbone.model
        self.register_buffer("prompt", prompt.expanded().to(backbone.device, backbone.dtype))
        self.first = first_position(backbone.model)
        self.head = None
        if prompt.head is not None:
            self.head = nn.Linear(prompt.head.weight.shape[1], len(prompt.head.bias))
            self.head.load_state_dict({"weight": prompt.head.weight, "bias": prompt.head.bias})

    prompt: Tensor

    def forward(self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]) -> Float[Tensor, "b *o"]:
        """Return logits over the text, [b, t, v], or class scores, [b, c]."""
        n = len(self.prompt)
        rows = self.prompt.expand(input_ids.shape[0], -1, -1)
        embeds = torch.cat([rows, embedded(self.model, input_ids)], 1)
        mask = torch.cat([torch.ones_like(rows[:, :, 0], dtype=torch.long), attention_mask], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0) + self.first
        options = {"use_cache": False} if self.kind == "decoder" else {}
        output = self.body(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, **options)
        if self.head is None:
            return output.logits[:, n:]
        present = attention_mask[:, :, None].to(embeds.dtype)
        states = output.last_hidden_state[:, n:] * present
        return self.head(states.sum(1) / present.sum(1))


def export_onnx(
    prompt: SoftPrompt,
    folder: "str | Path",
    *,
    model: "str | Path | AbstractBackbone | None" = None,
    licence: str = "other",
    spread: "Spread | None" = None,
) -> Path:
    """Write `model.onnx`: prompt, frozen model and head in one graph, for any number of rows and tokens.

    Logits are those at the text's positions; the prompt's are cut off. The file is compared with the model by
    onnxruntime before it is kept.

    Raises:
        CannotExport: an encoder-decoder, a linear probe, a deep prompt, a model that torch cannot export, or a graph
            that computes something else.
        BadInput: the folder exists, or the extra `onnx` is missing.
    """
    prompt = plain(prompt)
    kind = prompt.provenance.backbone.kind
    if prompt.length == 0:
        raise CannotExport(
            "this is a head without a prompt, ONNX is for prompts of at least one vector; use softprompt predict"
        )
    if kind == "encoder-decoder":
        raise CannotExport("ONNX is for prompts of encoders and decoders; export this one to PEFT, or save it")
    _refuse_no_extra()
    backbone = frozen_for(prompt, model)
    graph = Graph(backbone, prompt).eval()
    if backbone.device.type != "cpu":
        # The rows that it is traced and compared with are there, and the file is the same.
        graph = copy.deepcopy(graph).cpu()
    sentence = (
        "`model.onnx` holds prompt and model. It needs onnxruntime and the base model's tokenizer (transformers)."
    )
    readme = card(
        prompt,
        title="A soft prompt and its model in ONNX",
        sentence=sentence,
        load=LOAD.format(**tokenizing(prompt)),
        licence=licence,
        spread=spread,
    )
    with building(folder, "the ONNX graph") as place:
        _write(graph, place / "model.onnx", backbone.name)
        _refuse_other_numbers(graph, place / "model.onnx", backbone.name)
        (place / "README.md").write_text(readme, encoding="utf-8")
    return Path(folder).absolute()


def _is_large(graph: Graph) -> bool:
    """Whether the weights exceed what one file of ONNX holds (2 GiB); they then stand in a file beside it."""
    return sum(weight.nbytes for weight in graph.state_dict().values()) > 1_800_000_000


def _refuse_no_extra() -> None:
    try:
        import onnxruntime  # noqa: F401  (whether it is there)
        import onnxscript  # noqa: F401  (whether it is there)
    except ImportError as error:
        raise BadInput("ONNX needs the extra `onnx`; pip install 'softprompt[onnx]'") from error


def _rows(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Ids and a mask with pads after the last text."""
    ids = torch.arange(rows * tokens).reshape(rows, tokens) % 7 + 3
    mask = torch.ones_like(ids)
    mask[-1, tokens // 2 + 1 :] = 0
    return ids, mask


def _write(graph: Graph, path: Path, name: str) -> None:
    axes = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("tokens", min=2)}
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                graph,
                _rows(3, 6),
                str(path),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=(axes, axes),
                dynamo=True,
                external_data=_is_large(graph),
                verbose=False,
            )
    except OSError:
        # No fault of the model: the disk is full.
        raise
    # Torch raises errors of many kinds for what it cannot trace.
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CannotExport(
            f"torch cannot write {name!r} as ONNX: {first.strip()}; export it to PEFT instead"
        ) from error


def _refuse_other_numbers(graph: Graph, path: Path, name: str) -> None:
    """Compare the graph with the model at another number of rows and tokens than it was traced with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids, mask = _rows(2, 9)
    with torch.no_grad():
        expected = graph(ids, mask)
    (outputs,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    # Logits at pads are nobody's answer.
    present = mask.bool() if expected.ndim == 3 else torch.ones(len(ids), dtype=torch.bool)
    error = float((torch.from_numpy(outputs) - expected)[present].abs().max())
    if not error <= 1e-3 * max(1.0, float(expected[present].abs().max())):
        raise CannotExport(f"the ONNX graph of {name!r} is off by {error:.2g}, so it is not kept; export it to PEFT")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside the `with` block, the exporter's advice to its developers is not shown."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
