"""Eight runs of a tiny T5 on a few reviews."""

import pytest
from softprompt.study import grid

from kit import review_task
from study_kit import QUICK


@pytest.fixture(scope="session")
def model(tiny_t5, save_tiny, tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "t5", *tiny_t5()))


@pytest.fixture
def task(tmp_path):
    return review_task(tmp_path / "data")


@pytest.fixture
def specs(task, model):
    """Two fleets of four: EPT* and prompt tuning of equal length, at two learning rates, two seeds."""
    return grid(task=task, model=model, method=["ept-star", "prompt-tuning"], lr=[0.1, 0.3], seed=[0, 1], **QUICK)
