"""Tiny backbones, a task, and a run of each kind of trained weights."""

import pytest
from softprompt.backbones import from_model
from softprompt.prompts.methods import METHODS
from softprompt.training import train

from baselines_kit import SETTINGS, source
from kit import review_task


@pytest.fixture(scope="session")
def backbone_of(tiny_model):
    """Fresh tiny backbones by family; BERT answers by a linear head."""

    def build(family, **options):
        head = {"head": False} if family == "bert" else {}
        return from_model(*tiny_model(family, **head, **options), name=family, engine="reference")

    return build


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="session")
def more_of(backbone_of, task, tmp_path_factory):
    """What a method needs beside its name: for some two prompts of other tasks, trained on the same model."""

    def build(method, family):
        if not METHODS[method].takes_sources:
            return {}
        folder = tmp_path_factory.mktemp("sources")
        return {"sources": [str(source(backbone_of(family), task, folder / str(n), n)) for n in (1, 2)]}

    return build


@pytest.fixture(scope="session")
def runs(backbone_of, more_of, task, tmp_path_factory):
    """A run of each kind on the model that it is for."""
    folder = tmp_path_factory.mktemp("runs")
    chosen = {
        "full": "bert", "bitfit": "gpt2", "lora": "t5", "ia3": "gpt2", "adapter": "t5", "adapter-drop": "gpt2",
        "prefix-tuning": "t5", "cartridge": "gpt2", "dept": "gpt2", "attempt": "t5", "mpt": "gpt2",
    }  # fmt: skip
    return {
        method: train(
            task,
            backbone_of(family),
            method=method,
            lr=0.05,
            output=folder / method,
            **more_of(method, family),
            **SETTINGS,
        )
        for method, family in chosen.items()
    }, chosen
