"""Whether a prompt that begins as labelled rows can be read back as these rows.

    python -m experiments.examples_begin.read_back --model smollm2

Prompt tuning from four messages of examples/tickets, which are public, by the settings of the study of the real model.
The number is the share of trained vectors whose nearest word, by cosine over the vocabulary, is the one they began as.
"""

import argparse
import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import softprompt
import torch
from softprompt.analysis.analyses import nearest
from softprompt.backbones import AbstractBackbone
from softprompt.settings import PromptSettings, Seeds
from softprompt.store import json_bytes
from softprompt.training import without_advice

from ..common.places import RESULTS
from ..real_lm.design import SIZES, STILL
from ..real_lm.tasks import TICKETS

SETTINGS, SEED = SIZES["k16"].settings("labels"), 900
RATES = {"untrained": STILL, "trained": None}


def nearest_words(backbone: AbstractBackbone, vectors: torch.Tensor) -> torch.Tensor:
    """The id of the word with the largest cosine to each vector."""
    return nearest(vectors, backbone.word_vectors, 1, cosine=True)[0][:, 0]


def read_back(backbone: AbstractBackbone) -> dict[str, Any]:
    """Train the prompt, and compare its nearest words with those that it began as."""
    found = {}
    for name, rate in RATES.items():
        settings = SETTINGS if rate is None else dataclasses.replace(SETTINGS, steps=1)
        prompt = PromptSettings(init="examples:4", lr=rate, seeds=Seeds.all(SEED))
        with without_advice(), TemporaryDirectory() as folder:
            run = softprompt.train(TICKETS, backbone, prompts=[prompt], settings=settings, output=Path(folder) / "run")
            found[name] = nearest_words(backbone, run.prompt(0).vectors)
    same = found["trained"] == found["untrained"]
    return {
        "vectors": len(same),
        "same_word": same.float().mean().item(),
        "text": backbone.tokenizer.decode(found["trained"].tolist()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--result", type=Path, default=RESULTS / "examples_read_back.json")
    arguments = parser.parse_args()
    values = read_back(softprompt.load_backbone(arguments.model))
    arguments.result.write_bytes(json_bytes(values))
    print(f"{values['same_word']:.3f} of {values['vectors']} vectors are nearest to their word\n\n{values['text']}")
