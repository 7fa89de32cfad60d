"""Prompts of several tasks for one tiny model, and what they answer one by one."""

import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from softprompt.backbones import AbstractBackbone
from softprompt.inference.calibration import Calibration
from softprompt.inference.predict import predict
from softprompt.inference.scoring import Scoring
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.serving import Admission, Answer, PromptBank, ServedPrompt
from softprompt.tasks import Source, Task

# Longest written answer.
TOKENS = 3
WORDS = ["good", "bad", "great", "film", "movie", "the", "a", "of", "in", "very", "and", "it", "is", "was", "not"]
SENTIMENT = Task(name="sentiment", source=Source(), template="{text}", labels=("bad", "good"))
TRUTH = Task(name="truth", source=Source(), template="premise: {a} question: {b}", labels=("yes", "no", "true"))
SPELT = Task(
    name="spelt", source=Source(), template="it is {text}", labels=("terrible", "posit", "film"), max_length=40
)
WRITTEN = Task(name="written", source=Source(), template="sentence: {text}", answer="text", target="out")
NUMBER = Task(name="number", source=Source(), template="{text}", answer="number", target="out")
# The ways in which label words may be scored.
WAYS = (
    Scoring(),
    Scoring(end=False),
    Scoring(normalize="first"),
    Scoring(normalize="mean", calibration=Calibration(2.0, (0.5, -0.5), ("bad", "good"))),
)


def tasks_for(backbone: AbstractBackbone) -> tuple[Task, ...]:
    """Tasks that this kind of model answers: labels of one and of several tokens, and text or numbers."""
    if backbone.answers == "linear-head":
        return SENTIMENT, TRUTH, NUMBER
    return (SENTIMENT, TRUTH) if backbone.kind == "encoder" else (SENTIMENT, TRUTH, SPELT, WRITTEN)


def some_prompts(backbone: AbstractBackbone, count: int) -> dict[str, SoftPrompt]:
    """Prompts of these tasks, of different lengths, repeats and scorings, drawn from one seed."""
    draw = torch.Generator().manual_seed(1)
    tasks, prompts = tasks_for(backbone), {}
    for number in range(count):
        task = tasks[number % len(tasks)]
        scoring = WAYS[number // len(tasks) % len(WAYS)]
        if scoring.calibration is not None and task is not SENTIMENT:
            scoring = dataclasses.replace(scoring, calibration=None)
        if scoring.normalize == "first" and backbone.name == "tiny-bart":
            # All its answers begin with the same special token.
            scoring = dataclasses.replace(scoring, normalize="mean")
        provenance = Provenance(
            "prompt-tuning", backbone.identity(), backbone.answers, task.to_json(), scoring=scoring.to_json()
        )
        vectors = torch.randn(1 + number % 4, backbone.embedding_size, generator=draw)
        classes = len(task.labels) or 1
        head = LinearHead(
            torch.randn(classes, backbone.hidden_size, generator=draw), torch.randn(classes, generator=draw)
        )
        prompts[f"p{number}"] = SoftPrompt(
            vectors, provenance, 1 + number % 2, head if backbone.answers == "linear-head" else None
        )
    return prompts


def bank_of(backbone: AbstractBackbone, prompts: Mapping[str, SoftPrompt]) -> PromptBank:
    """A bank that refuses none of the prompts."""
    bank = PromptBank(Admission(backbone))
    assert bank.put(prompts.items()) == []
    return bank


def some_inputs(bank: PromptBank, count: int) -> Iterator[tuple[ServedPrompt, Any]]:
    """Requests to random prompts, of texts of different lengths."""
    draw, prompts = random.Random(2), list(bank.prompts.values())
    for _ in range(count):
        served = draw.choice(prompts)
        given = {name: " ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for name in served.asked.task.columns}
        yield served, given if len(given) > 1 else given["text"]


@contextlib.contextmanager
def at_an_address(service: Any, **options: Any) -> Iterator[tuple[str, Any]]:
    """The server in a thread of its own, at a free port of this machine: its address, and the server."""
    from softprompt.serving.http import build_app, listen, server_of

    listener = listen("127.0.0.1", 0)
    server = server_of(build_app(service, drain=2.0, **options), service, drain=2.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", server
    finally:
        server.should_exit = True
        thread.join()


def singles(requests: Sequence[tuple[ServedPrompt, Any]], backbone: AbstractBackbone) -> list[dict[str, Any]]:
    """What `prompt.predict` answers to each request in a pass of its own."""
    expected: dict[int, dict[str, Any]] = {}
    for key in {id(served) for served, _ in requests}:
        numbers = [number for number, (served, _) in enumerate(requests) if id(served) == key]
        prompt = requests[numbers[0]][0].prompt
        assert prompt is not None
        answers = predict(
            prompt, [requests[number][1] for number in numbers], model=backbone, batch_size=1, max_new_tokens=TOKENS
        )
        expected.update(zip(numbers, answers, strict=True))
    return [expected[number] for number in range(len(requests))]


def agrees(answer: Answer, expected: Mapping[str, Any], served: ServedPrompt) -> bool:
    """Whether an answer is the single one: the same text, and the same probabilities up to rounding."""
    if "output" in expected:
        if served.asked.task.answer == "number" and not served.asked.writes:
            return abs(float(answer.text) - float(expected["output"])) < 1e-4 * max(1, abs(float(expected["output"])))
        return answer.text == expected["output"]
    chances = answer.probabilities(served.asked.task.labels)
    near = all(abs(chances[label] - expected["scores"][label]) < 1e-4 for label in expected["scores"])
    return near and answer.text == expected["label"]


def agrees_with_json(answer: Mapping[str, Any], expected: Mapping[str, Any], served: ServedPrompt) -> bool:
    """Whether what /classify sent is the single answer."""
    chances = {score["label"]: score["probability"] for score in answer["scores"]}
    near = all(abs(chances[label] - expected["scores"][label]) < 1e-4 for label in served.asked.task.labels)
    return near and answer["label"] == expected["label"]
