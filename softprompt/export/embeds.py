"""Requests with embeddings for vLLM: prompt and text as one tensor, in the form that its completions API reads.

vLLM, started with `--enable-prompt-embeds`, takes `prompt_embeds` in `/v1/completions`: a tensor of shape [tokens,
hidden size] as `torch.save` writes it, in base64. It reads text and embeddings of one request one after the other, so
the words of the text are looked up here and sent as vectors, too.
"""

import base64
import io
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import AbstractBackbone
from ..errors import CannotExport
from ..inference.in_context import encoded
from ..inference.scoring import Scoring
from ..prompts.prompt import SoftPrompt
from ..store import json_bytes, tensor_bytes, write_folder
from ._card import Spread, card
from ._decoder import decoder_for, input_format

REQUEST = '''\
"""Build the body of a request to vLLM's /v1/completions: python request.py TEXT > body.json

The server runs the base model: vllm serve MODEL --enable-prompt-embeds
"""

import base64
import io
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "request.json").read_text(encoding="utf-8"))
TOKENIZER = AutoTokenizer.from_pretrained(ABOUT["model"], revision=ABOUT["revision"])
MODEL = AutoModelForCausalLM.from_pretrained(ABOUT["model"], revision=ABOUT["revision"])
PROMPT = load_file(HERE / "prompt.safetensors")["prompt"]


def body(text: str, max_tokens: int = ABOUT["max_tokens"]) -> dict:
    ids = TOKENIZER(ABOUT["before"] + text + ABOUT["after"], add_special_tokens=ABOUT["special"]).input_ids
    skipped = ABOUT["skipped"]
    assert ids[: len(skipped)] == skipped
    with torch.no_grad():
        words = MODEL.get_input_embeddings()(torch.tensor(ids[len(skipped) : len(ids) - ABOUT["ends"]]))
    embeds = torch.cat([PROMPT.to(words.dtype), words])
    content = io.BytesIO()
    torch.save(embeds, content)
    encoded = base64.b64encode(content.getvalue()).decode()
    # vLLM takes what is not named from the model's own defaults for generation.
    greedy = {"temperature": 0, "repetition_penalty": 1.0}
    return {"model": ABOUT["model"], "prompt": "", "prompt_embeds": encoded, "max_tokens": max_tokens, **greedy}


if __name__ == "__main__":
    print(json.dumps(body(sys.argv[1])))
'''

LOAD = """\
import json, subprocess, sys

line = subprocess.run([sys.executable, "request.py", "a text"], capture_output=True, text=True, check=True).stdout
body = json.loads(line)
# requests.post("http://localhost:8000/v1/completions", json=body)
print({name: value for name, value in body.items() if name != "prompt_embeds"})
"""


@torch.no_grad()
def input_embeds(prompt: SoftPrompt, text: str, backbone: AbstractBackbone) -> Float[Tensor, "n e"]:
    """What the model reads for a text: the prompt, then the vectors of the text's words."""
    form = input_format(prompt, backbone)
    (ids,) = encoded(backbone, [form.before + text + form.after])
    words = backbone.embed(torch.tensor(ids[len(form.skipped) : len(ids) - form.ends], device=backbone.device))
    return torch.cat([prompt.expanded().to(words), words])


def completion_request(
    prompt: SoftPrompt,
    text: str,
    *,
    model: "str | Path | AbstractBackbone | None" = None,
    max_tokens: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The body of a request to vLLM's `/v1/completions` that answers a text with a prompt.

    Args:
        prompt: a prompt of a decoder, not a deep one.
        text: as the task's only column.
        model: the frozen model; None loads the one that the prompt names.
        max_tokens: longest answer; None is as the prompt was trained.
        options: other fields of the request.

    Raises:
        CannotExport: no decoder, a deep prompt, or a task of several columns.
    """
    prompt = plain(prompt)
    backbone = decoder_for(prompt, model, "a request with embeddings")
    content = io.BytesIO()
    torch.save(input_embeds(prompt, text, backbone).cpu(), content)
    encoded_embeds = base64.b64encode(content.getvalue()).decode()
    body: dict[str, Any] = {"model": backbone.name, "prompt": "", "prompt_embeds": encoded_embeds}
    body["max_tokens"] = max_tokens or Scoring.of(prompt).max_new_tokens
    # vLLM takes what is not named from the model's own defaults for generation.
    return {**body, "temperature": 0, "repetition_penalty": 1.0, **options}


def export_embeds(
    prompt: SoftPrompt,
    folder: "str | Path",
    *,
    model: "str | Path | AbstractBackbone | None" = None,
    licence: str = "other",
    spread: "Spread | None" = None,
) -> Path:
    """Write the prompt's vectors and a script that builds requests for vLLM with transformers alone.

    Raises:
        CannotExport: as in `completion_request`.
        BadInput: the folder exists.
    """
    prompt = plain(prompt)
    backbone = decoder_for(prompt, model, "a request with embeddings")
    form, origin = input_format(prompt, backbone), prompt.provenance.backbone
    about = {
        "model": origin.name,
        "revision": origin.revision,
        "max_tokens": Scoring.of(prompt).max_new_tokens,
        **form.to_json(without=["opening"]),
    }
    sentence = "`request.py` writes requests for a vLLM server of the base model. It needs transformers and torch."
    readme = card(
        prompt, title="A soft prompt for vLLM", sentence=sentence, load=LOAD, licence=licence, spread=spread
    )  # fmt: skip
    contents = {
        "prompt.safetensors": tensor_bytes({"prompt": prompt.expanded()}),
        "request.json": json_bytes(about),
        "request.py": REQUEST.encode(),
        "README.md": readme.encode(),
    }
    return write_folder(Path(folder), contents, what="the requests", manifest=False)


def plain(prompt: SoftPrompt) -> SoftPrompt:
    """The prompt for the checkpoint's own embeddings.

    Raises:
        CannotExport: a deep prompt, which vectors before the input cannot hold.
    """
    if prompt.deep is not None:
        raise CannotExport(f"this prompt has vectors for {prompt.layers} layers; compile it, or save it instead")
    return prompt.at_scale(1.0)
