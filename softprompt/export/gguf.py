"""A recipe for llama.cpp: the vectors as raw floats, and a short script that reads them as a batch of embeddings."""

from pathlib import Path

from ..backbones import AbstractBackbone
from ..inference.scoring import Scoring
from ..prompts.prompt import SoftPrompt
from ..store import json_bytes, write_folder
from ._card import Spread, card
from ._decoder import decoder_for, input_format
from .embeds import plain

RUN = '''\
"""Answer a text with llama.cpp: python run.py MODEL.gguf TEXT [NEW TOKENS]

MODEL.gguf is the model that the prompt was trained on. Needs llama-cpp-python and numpy.
"""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "prompt.json").read_text(encoding="utf-8"))
PROMPT = np.fromfile(HERE / "prompt.f32", dtype="<f4").reshape(ABOUT["length"], ABOUT["width"])


def batch_of(count, width, first, last_only=True):
    batch = llama_cpp.llama_batch_init(count, width, 1)
    batch.n_tokens = count
    for i in range(count):
        batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = first + i, 1, 0
        batch.logits[i] = i == count - 1
    return batch


def decode(context, batch):
    code = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if code:
        raise SystemExit(f"llama_decode failed with code {code}")


def logits_after(context, ids):
    """The logits behind prompt and text."""
    batch = batch_of(len(PROMPT), ABOUT["width"], 0)
    ctypes.memmove(batch.embd, np.ascontiguousarray(PROMPT).ctypes.data, PROMPT.nbytes)
    decode(context, batch)
    return read(context, ids, len(PROMPT))


def read(context, ids, first):
    batch = batch_of(len(ids), 0, first)
    for i, token in enumerate(ids):
        batch.token[i] = token
    decode(context, batch)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(context)))
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,)).copy()


def main(path, text, new=ABOUT["max_tokens"]):
    llm = llama_cpp.Llama(path, n_ctx=2048, verbose=False)
    context = llm._ctx.ctx
    whole = ABOUT["before"] + text + ABOUT["after"]
    ids = llm.tokenize(whole.encode(), add_bos=ABOUT["special"], special=True)[len(ABOUT["skipped"]) :]
    logits, place, answer = logits_after(context, ids), len(PROMPT) + len(ids), []
    while len(answer) < new and (token := int(logits.argmax())) != llm.token_eos():
        answer.append(token)
        logits, place = read(context, [token], place), place + 1
    print(llm.detokenize(answer).decode(errors="replace").strip())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
'''

LOAD = """\
import numpy, json

about = json.load(open("prompt.json", encoding="utf-8"))
prompt = numpy.fromfile("prompt.f32", dtype="<f4").reshape(about["length"], about["width"])
# python run.py MODEL.gguf "a text"
"""


def export_gguf_recipe(
    prompt: SoftPrompt,
    folder: "str | Path",
    *,
    model: "str | Path | AbstractBackbone | None" = None,
    licence: str = "other",
    spread: "Spread | None" = None,
) -> Path:
    """Write the vectors as little-endian float32 and a script that answers with llama-cpp-python.

    Raises:
        CannotExport: no decoder, a deep prompt, or a task of several columns.
        BadInput: the folder exists.
    """
    prompt = plain(prompt)
    backbone = decoder_for(prompt, model, "a recipe for llama.cpp")
    form = input_format(prompt, backbone)
    vectors = prompt.expanded().numpy(force=True).astype("<f4")
    about = {
        "length": len(vectors),
        "width": vectors.shape[1],
        "max_tokens": Scoring.of(prompt).max_new_tokens,
        **form.to_json(without=["opening", "ends"]),
    }
    sentence = "`run.py` answers with llama-cpp-python and a GGUF file of the base model."
    contents = {
        "prompt.f32": vectors.tobytes(),
        "prompt.json": json_bytes(about),
        "run.py": RUN.encode(),
        "README.md": card(
            prompt, title="A soft prompt for llama.cpp", sentence=sentence, load=LOAD, licence=licence, spread=spread
        ).encode(),
    }  # fmt: skip
    return write_folder(Path(folder), contents, what="the recipe", manifest=False)
