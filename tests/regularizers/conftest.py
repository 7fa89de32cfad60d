"""A task of reviews, and tiny backbones with their training rows."""

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.data import load_rows, split_rows
from softprompt.inference.rows import examples_for
from softprompt.training.objectives import RegularizerContext

from kit import review_task
from regularizers_kit import LENGTH


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("reviews") / "data")


@pytest.fixture
def setting(tiny_model, task):
    """A backbone in float64 (the norms of T5 alone compute in float32), its surroundings, and its training rows."""

    def build(family, dtype=torch.float64, task=task, **options):
        backbone = from_model(*tiny_model(family, dtype=dtype, **options))
        rows = split_rows(task, load_rows(task)).train
        return backbone, RegularizerContext.of(backbone, task), examples_for(backbone, task, rows, LENGTH)

    return build
