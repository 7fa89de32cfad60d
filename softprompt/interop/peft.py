"""Stock PEFT folders: two files that `PeftModel.from_pretrained` reads with none of our code, and the way back.

PEFT is never imported here. Every method is written as PROMPT_TUNING, for after folding all of them are rows.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones import kind_here, lasting_name, read_configuration, silence, source_of
from ..backbones.family import text_config
from ..baselines import READ_FROM_PEFT
from ..errors import BadInput, CannotExport, DamagedFile, ModelMismatch, SoftPromptError
from ..prompts.prompt import BackboneIdentity, SoftPrompt
from ..prompts.tuned import FLOATS
from ..store import (
    MANIFEST,
    from_document,
    json_bytes,
    read_folder,
    read_json,
    read_tensors,
    tensor_bytes,
    to_document,
    write_folder,
)
from ._imported import imported
from .recipes import MODEL_CLASSES, readme

CONFIG, WEIGHTS, HEAD, DOCUMENT = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "head.safetensors",
    "softprompt.json",
)
# This is never null: PEFT would wrap the model in a class whose forward leaves the prompt out without a warning.
TASK_TYPES = {"encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION", "decoder": "CAUSAL_LM"}
KINDS = {task_type: kind for kind, task_type in TASK_TYPES.items()}
READABLE = ("PROMPT_TUNING", "P_TUNING")


def export_peft(
    prompt: SoftPrompt,
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    licence: str = "other",
    spread: object = None,
) -> Path:
    """Write a folder that stock PEFT loads, with a recipe in its README, and the head in a file of its own.

    Args:
        prompt: its repeats are written out as rows: PEFT has no field for them. One trained at another embedding scale
            is brought to the checkpoint's own, which is what PEFT loads.
        folder: where; an empty folder is taken.
        model: the frozen model, to record its depth and heads; without it they are read from its folder, or left
            for PEFT to fill in from the model it loads.
        licence: of the prompt, an identifier of the hub.
        spread: its scores over seeds, in words (`softprompt.export.spread_of`), or None.

    Raises:
        CannotExport: a deep prompt, a head without a prompt, an unknown kind of backbone, a head on anything but an
            encoder.
        ModelMismatch: `model` has embeddings of another width.
        BadInput: the folder exists.
        StorageFailure: the disk is full or not writable.
    """
    _refuse_what_peft_cannot_hold(prompt, model)
    prompt = prompt.at_scale(1.0)
    contents = {
        CONFIG: json_bytes(_config(prompt, model)),
        WEIGHTS: tensor_bytes({"prompt_embeddings": prompt.expanded()}),
        DOCUMENT: json_bytes(to_document(prompt)),
        "README.md": readme(prompt, licence=licence, spread=spread).encode(),
    }
    if prompt.head is not None:
        contents[HEAD] = tensor_bytes({"weight": prompt.head.weight, "bias": prompt.head.bias})
    return write_folder(Path(folder), contents, what="the PEFT folder")


def import_peft(folder: str | Path, *, model: str | None = None, kind: str | None = None) -> SoftPrompt:
    """The prompt in a PEFT folder: all that `export_peft` wrote, or the rows that PEFT trained.

    PEFT's default for SEQ_2_SEQ_LM stores twice the rows it uses; the first half is the prompt, the rest is dropped
    with a warning.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        model: hub id or folder of the frozen model, where the folder names none.
        kind: of the model, where neither the folder nor a model that is here says it.

    Raises:
        BadInput: not a PEFT folder, another method than PROMPT_TUNING and P_TUNING, a pickle, or rows that make
            no prompt.
        DamagedFile: a file of our own export that is not what was written.
    """
    folder = Path(folder)
    config = _readable_config(folder)
    ours = (folder / MANIFEST).is_file() and (folder / DOCUMENT).is_file()
    if ours:
        read_folder(folder)
    rows = _rows(folder)
    if ours:
        return _restored(folder, rows)
    rows, dropped = _used_rows(rows, config, folder)
    name = str(config.get("base_model_name_or_path") or model or "unknown")
    identity = BackboneIdentity(
        name=lasting_name(name),
        kind=_kind(config.get("task_type"), folder, name, kind),
        embedding_size=rows.shape[1],
        revision=config.get("revision") if isinstance(config.get("revision"), str) else None,
    )
    training: dict[str, str | int] = {"imported_from": f"PEFT {config['peft_type']}"}
    return imported(rows, identity, {**training, **({"dropped_rows": dropped} if dropped else {})})


def _refuse_what_peft_cannot_hold(prompt: SoftPrompt, model: nn.Module | None) -> None:
    kind, answers = prompt.provenance.backbone.kind, prompt.provenance.answers
    if prompt.deep is not None:
        raise CannotExport(
            f"this prompt has vectors for {prompt.layers} layers, PEFT's prompt tuning for one; save it instead"
        )
    if prompt.length == 0:
        raise CannotExport("this is a head without a prompt, PEFT's prompt methods hold at least one vector; save it")
    if (kind, answers) not in MODEL_CLASSES:
        raise CannotExport(f"no stock model of kind {kind!r} answers by {answers!r}; save the prompt instead")
    if (prompt.head is not None) != (answers == "linear-head"):
        raise CannotExport(
            f"a prompt that answers by {answers!r} has a head exactly if that is linear-head; save it anew"
        )
    if model is not None and (width := _width(model)) != prompt.vectors.shape[1]:
        raise ModelMismatch(
            f"this prompt is {prompt.vectors.shape[1]} wide, this model's embeddings {width}; give the prompt's own"
        )


def _width(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[1]


def _config(prompt: SoftPrompt, model: nn.Module | None) -> dict[str, Any]:
    """Only PEFT's own keys, because it warns about any other."""
    backbone = prompt.provenance.backbone
    sizes = _sizes(model, backbone)
    return {
        "peft_type": "PROMPT_TUNING",
        "task_type": TASK_TYPES[backbone.kind],
        "base_model_name_or_path": backbone.name,
        "revision": backbone.revision,
        "inference_mode": True,
        "num_virtual_tokens": prompt.length,
        # The width of the word embeddings. PEFT would take the hidden size, which differs in ALBERT and ELECTRA.
        "token_dim": prompt.vectors.shape[1],
        # Without this PEFT assumes 2 for SEQ_2_SEQ_LM and expects twice the rows.
        "num_transformer_submodules": 1,
        # PEFT looks for these under a few names, and refuses models that use other names (DistilBERT, MPT).
        "num_layers": _number(sizes, "num_hidden_layers", "encoder_layers", "num_encoder_layers"),
        "num_attention_heads": _number(sizes, "num_attention_heads", "encoder_attention_heads"),
        # With TEXT, PEFT would download a tokenizer.
        "prompt_tuning_init": "RANDOM",
    }


def _sizes(model: nn.Module | None, backbone: BackboneIdentity) -> Any:
    """The configuration of what reads the prompt: the model's, or that of its folder or of the hub's files kept here.

    None where neither is here: PEFT then fills in what it can from the model that it loads.
    """
    if model is not None:
        return text_config(model.config)
    try:
        with silence():
            config = read_configuration(source_of(backbone.name), backbone.revision, only_here=True)
    except SoftPromptError:
        return None
    return text_config(config)


def _number(config: Any, *names: str) -> int | None:
    """The first of these names under which a configuration stores a number."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)


def _readable_config(folder: Path) -> dict[str, Any]:
    """PEFT's configuration, if its method is a prompt before the input and its weights are no pickle."""
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{str(folder)!r} holds no {CONFIG}; give a folder written by PEFT's save_pretrained")
    config = read_json(folder / CONFIG)
    if config.get("peft_type") not in READABLE:
        as_weights = str(config.get("peft_type")) in READ_FROM_PEFT
        raise BadInput(
            f"{str(folder)!r} is of type {config.get('peft_type')!r}, which is more than rows before the input; "
            f"{' and '.join(READABLE)} can be imported"
            + (", and `softprompt import` reads this type as trained weights" if as_weights else "")
        )
    if not (folder / WEIGHTS).is_file():
        pickled = [path.name for path in folder.glob("adapter_model.*")]
        why = f"only {pickled[0]}, a pickle, which may run code" if pickled else f"no {WEIGHTS}"
        raise BadInput(f"{str(folder)!r} holds {why}; save it again with PEFT's save_pretrained")
    return config


def _rows(folder: Path) -> Float[Tensor, "n e"]:
    """The stored rows. Other tensors in the file are ignored, as PEFT does."""
    path = folder / WEIGHTS
    rows = read_tensors(path).get("prompt_embeddings")
    if rows is None or rows.ndim != 2 or rows.dtype not in FLOATS or not rows.numel():
        shape = "none" if rows is None else f"{rows.dtype} of shape {tuple(rows.shape)}"
        raise BadInput(
            f"{str(path)!r} needs 'prompt_embeddings', floats of shape (rows, width), and holds {shape}; export it anew"
        )
    return rows


def _used_rows(rows: Float[Tensor, "k e"], config: dict[str, Any], folder: Path) -> tuple[Float[Tensor, "n e"], int]:
    """The rows that PEFT puts before the input, and the number of other stored rows."""
    n = config.get("num_virtual_tokens")
    doubled = config.get("task_type") == "SEQ_2_SEQ_LM" and len(rows) == 2 * n if isinstance(n, int) else False
    if not isinstance(n, int) or not (len(rows) == n or doubled):
        raise BadInput(f"{str(folder)!r} says {n} virtual tokens and stores {len(rows)} rows; export it anew")
    if config.get("token_dim") not in (None, rows.shape[1]):
        raise BadInput(f"{str(folder)!r} says width {config['token_dim']} and stores {rows.shape[1]}; export it anew")
    if doubled:
        logging.getLogger("softprompt").warning(
            "%s stores %d rows; PEFT reads the first %d for an encoder-decoder and never trains the others: dropped",
            folder, len(rows), n,
        )  # fmt: skip
    return rows[:n], len(rows) - n


def _kind(task_type: Any, folder: Path, model: str, given: str | None) -> str:
    """The kind of model, from the task type; without one, of a model that is here, or as it is given."""
    if task_type is not None and str(task_type) not in KINDS:
        raise BadInput(
            f"{str(folder)!r} has task type {task_type!r}, whose head cannot be read here; give a folder of "
            f"{', '.join(KINDS)}"
        )
    known = KINDS[str(task_type)] if task_type is not None else kind_here(model) or given
    if known is None:
        raise BadInput(
            f"{str(folder)!r} names no task type and no model that is here, from which the kind of its model would "
            f"be known; give --kind: {', '.join(TASK_TYPES)}"
        )
    return known


def _restored(folder: Path, rows: Float[Tensor, "n e"]) -> SoftPrompt:
    """A prompt that `export_peft` wrote: one copy of the repeated rows, the head and the provenance."""
    document = read_json(folder / DOCUMENT)
    shapes = document.get("shapes")
    shape = shapes.get("vectors") if isinstance(shapes, dict) else None
    m = shape[0] if isinstance(shape, list) and shape and type(shape[0]) is int else 0
    tensors = {"vectors": rows[: max(m, 0)].clone()}
    if (folder / HEAD).is_file():
        tensors |= {f"head.{name}": tensor for name, tensor in read_tensors(folder / HEAD).items()}
    prompt = from_document(document, tensors, str(folder))
    if not torch.equal(prompt.expanded(), rows):
        raise DamagedFile(f"the rows in {str(folder)!r} are not those its {DOCUMENT} describes; export the prompt anew")
    return prompt
