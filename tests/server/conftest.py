"""A bank of two prompts on a tiny GPT."""

import pytest
from softprompt.backbones import from_model
from softprompt.serving import PromptBank

from serving_kit import bank_of, some_prompts


@pytest.fixture(scope="session")
def backbone(tiny_gpt):
    return from_model(*tiny_gpt("llama"), name="tiny-llama")


@pytest.fixture(scope="session")
def prompts(backbone):
    return some_prompts(backbone, 8)


@pytest.fixture
def bank(backbone, prompts) -> PromptBank:
    return bank_of(backbone, prompts)
