"""Threads of one program that share a loaded model, or torch's generators, get what each would get alone."""

import sys
from typing import Any

import pytest
import torch
from softprompt import train
from softprompt.backbones import AbstractBackbone, from_model
from softprompt.inference.predict import predict
from softprompt.prompts.methods import METHODS
from softprompt.settings import PromptSettings
from softprompt.training import Run

from kit import review_task, together

TEXTS = ["a good film", "the movie was terrible and it was very very long", "bad", "it is great , and the film was it"]


@pytest.fixture
def hasty():
    """Threads that take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module", params=["reference", "auto"])
def backbone(request, tiny_gpt) -> AbstractBackbone:
    return from_model(*tiny_gpt("llama"), name="tiny", engine=request.param)


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory) -> Run:
    """An ordinary prompt, a deep one, and weights that take the places of the model's own."""
    folder = tmp_path_factory.mktemp("threads")
    prompts = [
        PromptSettings(),
        PromptSettings(deep=True),
        PromptSettings(method="lora"),
        PromptSettings(method="full"),
    ]
    settings = {"steps": 2, "batch_size": 4, "with_frozen": False}
    return train(review_task(folder / "data"), backbone, prompts=prompts, output=folder / "run", **settings)


def test_threads_that_share_a_model_answer_as_each_does_alone(run, backbone, hasty):
    def scores(stored: Any) -> list[Any]:
        return [answer["scores"] for answer in predict(stored, TEXTS, model=backbone)]

    stored = [run.stored(number) for number in range(4)]
    alone = [scores(one) for one in stored]
    assert len({str(answers) for answers in alone}) == 4
    for _ in range(5):
        assert together(*(lambda one=one: scores(one) for one in [*stored, *stored])) == [*alone, *alone]
    assert [scores(one) for one in stored] == alone


def test_a_training_beside_other_threads_is_the_one_that_it_is_alone(run, backbone, hasty, tmp_path):
    task = review_task(tmp_path / "data")
    settings = {"steps": 4, "eval_every": 2, "batch_size": 4, "with_frozen": False}

    def trained(folder: str, method: str) -> Any:
        made = train(task, backbone, method=method, output=tmp_path / folder, **settings)
        return [torch.cat([tensor.flatten() for tensor in _tensors(made.stored(0))])]

    def answers() -> list[Any]:
        return [[a["scores"] for a in predict(run.stored(2), TEXTS, model=backbone)] for _ in range(20)]

    for method in ("prompt-tuning", "full"):
        alone = trained(f"{method}-alone", method)
        before = answers()
        beside, during = together(lambda m=method: trained(f"{m}-beside", m), answers)
        assert torch.equal(alone[0], beside[0])
        assert during == before


def _tensors(stored: Any) -> list[torch.Tensor]:
    return list(stored.weights.values()) if hasattr(stored, "weights") else [stored.vectors]


@pytest.mark.parametrize("method", ["ept", "residual", "p-tuning"])
def test_networks_that_threads_build_are_those_of_their_seeds(method, hasty):
    def built() -> list[torch.Tensor]:
        networks = [METHODS[method].build(64, seed) for seed in range(40)]
        return [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks]

    alone = built()
    for numbers in together(*[built] * 4):
        assert all(torch.equal(a, b) for a, b in zip(alone, numbers, strict=True))
