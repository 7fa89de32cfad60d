"""What the tests of deep prompts are given: tiny models in memory and on disk, and rows."""

import pytest

from deep_kit import backbones, kept_model
from kit import review_task


@pytest.fixture
def backbone_of(tiny_model, exact_norms):
    return backbones(tiny_model)


@pytest.fixture
def task(tmp_path):
    return review_task(tmp_path / "data")


@pytest.fixture(scope="session")
def folder(tiny_model, save_tiny, tmp_path_factory):
    return kept_model("t5", tiny_model, save_tiny, tmp_path_factory)


@pytest.fixture(scope="session")
def decoder_folder(tiny_model, save_tiny, tmp_path_factory):
    return kept_model("gpt2", tiny_model, save_tiny, tmp_path_factory)
