"""Small runs that the chaos begins with: a random tiny model, forty-eight rows, four steps."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.training import resume, train

from kit import review_task

torch.set_num_threads(1)
SETTINGS = TrainSettings(steps=4, eval_every=2, batch_size=4, eval_rows=4)
PROMPTS = (
    PromptSettings(options={"prompt_length": 2}, restarts=2, restart_steps=2),
    PromptSettings(method="ept-star", lr=0.2),
)


@pytest.fixture(scope="session")
def chaos_task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("chaos-rows") / "data")


@pytest.fixture(scope="session")
def chaos_model(tiny_t5):
    return from_model(*tiny_t5(), name="tiny")


@dataclasses.dataclass(frozen=True)
class Work:
    """A run that can be started and gone on with, as the scenarios of chaos want it."""

    task: Any
    model: Any

    def start(self, folder: Path, **more: Any) -> None:
        train(self.task, self.model, prompts=PROMPTS, settings=SETTINGS, output=folder, **more)

    def go_on(self, folder: Path) -> None:
        resume(folder, model=self.model)


@pytest.fixture(scope="session")
def work(chaos_task, chaos_model) -> Work:
    return Work(chaos_task, chaos_model)


@pytest.fixture(scope="session")
def whole(work, tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("chaos") / "whole"
    work.start(folder)
    return folder
