"""Tiny stored models, and a task of a few reviews."""

import pytest

from kit import review_task
from training_kit import OPEN


@pytest.fixture(autouse=True)
def records_are_closed():
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture(scope="session")
def t5_folder(tiny_t5, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "t5", *tiny_t5())


@pytest.fixture(scope="session")
def bert_folder(tiny_bert, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "bert", *tiny_bert(head=False))


@pytest.fixture
def task(tmp_path):
    return review_task(tmp_path / "data")
