"""Compiled prompts of decoders: the keys and values of prompt and instruction, computed once, for stock `generate`.

A decoder's states at a position depend on what stands before it only. So those of the prompt, and of the words that
every input begins with, are the same for every text, and a cache of transformers holds them, deep prompts too. Inputs
are then read after the cache: no vectors, no dummy ids, nothing that a repetition penalty could see.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..backbones import AbstractBackbone
from ..backbones.family import decoder_of
from ..documents import SEALED, changed_files, check_shape, entry, faults_in, in_file, listed_in
from ..errors import BadInput, CannotExport, DamagedFile
from ..interop.attach import attach
from ..prompts.prompt import SoftPrompt
from ..store import read_sealed, read_tensors, sealed_bytes, tensor_bytes, write_folder
from ._card import Spread, card
from ._decoder import InputFormat, decoder_for, input_format

CACHE, SETTINGS, CARD = "cache.safetensors", "cache.json", "README.md"
REPAIR = "compile the prompt again"

LOAD = """\
import json

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

about, tensors = json.load(open("cache.json", encoding="utf-8")), load_file("cache.safetensors")
tokenizer = AutoTokenizer.from_pretrained(about["model"], revision=about["revision"], padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(about["model"], revision=about["revision"]).eval()

texts, beams = ["a text", "another, longer text"], 1
whole = tokenizer([about["before"] + text + about["after"] for text in texts], add_special_tokens=about["special"])
begins = about["skipped"] + about["opening"]  # these tokens are in the cache
assert all(ids[: len(begins)] == begins for ids in whole.input_ids)
rest = [ids[len(begins) : len(ids) - about["ends"]] for ids in whole.input_ids]
rest = tokenizer.pad({"input_ids": rest}, return_tensors="pt")
cache = DynamicCache(config=model.config)
for layer in range(about["layers"]):
    keys, values = (tensors[f"{layer}.{name}"] for name in ("keys", "values"))
    cache.update(*(part.repeat(len(texts) * beams, 1, 1, 1).to(model.dtype) for part in (keys, values)), layer)
mask = torch.cat([torch.ones(len(texts), about["length"], dtype=torch.long), rest.attention_mask], 1)
answers = model.generate(
    rest.input_ids, attention_mask=mask, past_key_values=cache, num_beams=beams, {greedy},
    max_new_tokens={new_tokens}, pad_token_id=tokenizer.pad_token_id,
)
print(tokenizer.batch_decode(answers[:, rest.input_ids.shape[1] :], skip_special_tokens=True))
"""


@final
@dataclass(frozen=True, eq=False)
class CompiledPrompt:
    """The keys and values of a prompt and of the tokens that every input begins with.

    Args:
        keys: of each layer.
        values: of each layer.
        model: hub id or folder of the frozen model.
        revision: its commit on the hub.
        input_format: how a text is written. Inputs leave out its ids `skipped`, `opening` and, at the end, `ends`.
    """

    keys: Sequence[Float[Tensor, "1 h n k"]]
    values: Sequence[Float[Tensor, "1 h n k"]]
    model: str
    revision: str | None
    input_format: InputFormat

    @property
    def length(self) -> int:
        """Number of positions that the cache holds."""
        return self.keys[0].shape[2]

    def cache(self, rows: int, config: Any) -> Any:
        """A new cache of transformers for so many rows: texts times beams.

        Args:
            rows: number of rows.
            config: the model's configuration, which says what kind each layer is of.
        """
        from transformers import DynamicCache

        cache = DynamicCache(config=config)
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            # Copies: a cache grows in place.
            cache.update(keys.repeat(rows, 1, 1, 1), values.repeat(rows, 1, 1, 1), layer)
        return cache

    def inputs(
        self, ids: Int[Tensor, "b t"], mask: Int[Tensor, "b t"], config: Any, *, beams: int = 1
    ) -> dict[str, Any]:
        """Arguments of a decoder's `generate` or `forward` for texts after the cache.

        Args:
            ids: without the opening; padded on the left for `generate`.
            mask: 1 where there is text.
            config: the model's configuration.
            beams: as given to `generate`.
        """
        held = mask.new_ones(len(mask), self.length)
        cache = self.cache(len(ids) * beams, config)
        return {"input_ids": ids, "attention_mask": torch.cat([held, mask], 1), "past_key_values": cache}

    def encode(self, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
        """The ids of texts as they are read after the cache: template, cue and all, without what the cache holds.

        Raises:
            BadInput: the tokens at the beginning of a text are joined with the opening, so the cache does not fit it.
        """
        form = self.input_format
        begins = [*form.skipped, *form.opening]
        whole = [form.before + text + form.after for text in texts]
        rows = tokenizer(whole, add_special_tokens=form.special)["input_ids"]
        for number, row in enumerate(rows, 1):
            if list(row[: len(begins)]) != begins:
                raise BadInput(
                    f"text {number} changes the tokens of the instruction before it, which are compiled; "
                    "answer it with the prompt itself"
                )
        return [list(row[len(begins) : len(row) - form.ends]) for row in rows]

    def save(self, folder: "str | Path", readme: str) -> Path:
        """Write the folder that `load` and the recipe of its README read.

        Raises:
            BadInput: the folder exists.
        """
        tensors = layer_tensors(self.keys, self.values)
        about = {
            "model": self.model,
            "revision": self.revision,
            "layers": len(self.keys),
            "length": self.length,
            **self.input_format.to_json(),
        }
        contents = {CACHE: tensor_bytes(tensors), CARD: readme.encode()}
        files = {name: entry(content) for name, content in contents.items()}
        contents[SETTINGS] = sealed_bytes({"format": SEALED, "files": files, **about})
        return write_folder(Path(folder), contents, what="the compiled prompt", manifest=False)

    @classmethod
    def load(cls, folder: "str | Path") -> "CompiledPrompt":
        """Read a folder that `save` wrote.

        Raises:
            BadInput: there is no such folder, or it holds what is no compiled prompt.
            DamagedFile: a file in it is not as it was written. Folders of earlier versions have no checksums.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise BadInput(f"{str(folder)!r} holds no {SETTINGS}; give a folder of `softprompt compile`")
        about = _settings(folder)
        # People write on its README.
        listed = {name: known for name, known in listed_in(about, folder / SETTINGS).items() if name != CARD}
        for line in changed_files(lambda: {"files": listed}, folder / SETTINGS, REPAIR):
            raise DamagedFile(line)
        about = {name: value for name, value in about.items() if name not in ("format", "files")}
        # Of a file with a checksum the size is that of the model, not of a prompt.
        tensors = read_tensors(folder / CACHE, is_bounded=CACHE not in listed)
        with in_file(folder / SETTINGS):
            check_shape(CompiledPrompt, about, is_open=True, keys=Any, values=Any, input_format=Any, partial=True)
            check_shape(InputFormat, about, is_open=True, partial=True)
            layers = _layers(tensors, about.pop("layers", None), about.pop("length", None))
            keys, values = ([tensors[f"{layer}.{name}"] for layer in layers] for name in ("keys", "values"))
            own = {name: about.pop(name) for name in ("model", "revision") if name in about}
            try:
                return cls(keys, values, **own, input_format=InputFormat(**about))
            except TypeError as error:
                raise BadInput("it is no document of a compiled prompt; compile the prompt again") from error


def damaged_compiled(folder: Path) -> Iterator[str]:
    """One line for each file of a compiled prompt that is not as it was written, its README too."""
    path, faults = folder / SETTINGS, list(faults_in(lambda: CompiledPrompt.load(folder)))
    yield from faults or changed_files(lambda: _settings(folder), path, REPAIR)


def _settings(folder: Path) -> dict[str, Any]:
    """The document of a compiled prompt; those of earlier versions have no checksum, and a length as all have."""
    return read_sealed(folder / SETTINGS, earlier_names=["length"], repair=REPAIR)


def layer_tensors(keys: Sequence[Tensor], values: Sequence[Tensor]) -> dict[str, Tensor]:
    """The keys and values of each layer by the names that recipes read."""
    tensors = {f"{layer}.keys": of_layer for layer, of_layer in enumerate(keys)}
    return tensors | {f"{layer}.values": of_layer for layer, of_layer in enumerate(values)}


def _layers(tensors: Mapping[str, Tensor], count: Any, length: Any) -> range:
    """The numbers of the layers, each of which has keys and values of so many positions.

    Raises:
        BadInput: the tensors are others.
    """
    # In this order: a file may ask for more layers than there are names.
    is_whole = type(count) is int and 0 < 2 * count == len(tensors)
    names = {f"{layer}.{name}" for layer in range(count) for name in ("keys", "values")} if is_whole else set()
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    if names != tensors.keys() or any(len(shape) != 4 or shape[2] != length for shape in shapes):
        raise BadInput("its tensors are not the keys and values of its layers; compile the prompt again")
    return range(count)


@torch.no_grad()
def compile_prompt(prompt: SoftPrompt, *, model: "str | Path | AbstractBackbone | None" = None) -> CompiledPrompt:
    """Compute the keys and values of a decoder's prompt and of its task's instruction.

    Args:
        prompt: a prompt of a decoder; a deep one too.
        model: the frozen model; None loads the one that the prompt names.

    Raises:
        CannotExport: no decoder; layers without keys of all positions (recurrent, or a window shorter than the
            prompt); or a task of several columns.
        ModelMismatch: the prompt belongs to another model.
    """
    prompt = prompt.at_scale(1.0)
    backbone = decoder_for(prompt, model, "compiling")
    form = input_format(prompt, backbone)
    length = prompt.length + len(form.opening)
    # One more token, because a model reads some text; nothing before it depends on it.
    ids = torch.tensor([[*form.opening, backbone.pad_id]], device=backbone.device)
    output = attach(prompt, backbone.model)(input_ids=ids, use_cache=True)
    layers = getattr(output.past_key_values, "layers", [])
    _refuse_no_keys(layers, length, backbone)
    keys, values = ([getattr(layer, name)[:, :, :length].clone() for layer in layers] for name in ("keys", "values"))
    origin = prompt.provenance.backbone
    return CompiledPrompt(keys, values, origin.name, origin.revision, form)


def export_cache(
    prompt: SoftPrompt,
    folder: "str | Path",
    *,
    model: "str | Path | AbstractBackbone | None" = None,
    licence: str = "other",
    spread: "Spread | None" = None,
) -> Path:
    """Write a compiled prompt with a recipe that needs transformers alone.

    Raises:
        CannotExport: as in `compile_prompt`.
        BadInput: the folder exists.
    """
    compiled = compile_prompt(prompt, model=model)
    opening = len(compiled.input_format.opening)
    sentence = (
        f"These are its keys and values in {len(compiled.keys)} layers, with those of the {opening} "
        "tokens that every input begins with. It needs transformers 5 and safetensors."
    )
    readme = card(
        prompt, title="A compiled soft prompt", sentence=sentence, load=LOAD, licence=licence, spread=spread
    )  # fmt: skip
    return compiled.save(folder, readme)


def _refuse_no_keys(layers: Sequence[Any], length: int, backbone: AbstractBackbone) -> None:
    count = len(decoder_of(backbone.model).layers) if hasattr(decoder_of(backbone.model), "layers") else len(layers)
    whole = [getattr(layer, "keys", None) for layer in layers]
    if not whole or len(whole) != count or any(keys is None or keys.shape[2] <= length for keys in whole):
        raise CannotExport(
            f"{backbone.name!r} keeps no keys of all {length} positions in every layer (it is recurrent, or its window "
            "is shorter), so nothing can be computed once; use the prompt itself"
        )
