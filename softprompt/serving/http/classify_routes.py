"""`/classify`: the probability of each label, beside what the frozen model says if that is asked for."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from ...errors import BadInput
from ..served import ServedPrompt
from ..work import Answer, Work
from .openai_routes import usage_of
from .schemas import Classification
from .service import Service


def classify_routes(service: Service) -> APIRouter:
    """The routes of `/classify`."""
    router = APIRouter(tags=["classify"])

    @router.post("/classify")
    async def classify(request: Request, asked: Classification) -> dict[str, Any]:
        """The label of each text or row with the probabilities of all labels, or its number."""
        served = service.served(asked.model)
        refuse_text(served, service.named(served))
        inputs: list[Any] = asked.inputs if isinstance(asked.inputs, list) else [asked.inputs]
        options = {"truncate": asked.truncate, "calibrate": asked.calibrate}
        works = await service.works(request, served, inputs, **options)
        if asked.frozen:
            works += await service.works(request, service.bank.admission.without(served), inputs, **options)
        request.state.noted = {"model": service.named(served), "rows": len(works)}
        answers = await service.answers(request, works)
        lines = [_line(work, answer, asked.top_k) for work, answer in zip(works, answers, strict=True)]
        count = len(inputs)
        for line, beside in zip(lines[:count], lines[count:], strict=False):
            line["frozen"] = {name: beside[name] for name in ("label", "scores")}
        return {
            "id": request.state.request_id,
            "object": "classification",
            "model": service.named(served),
            "version": served.version,
            "answers": lines[:count],
            "usage": usage_of(works, answers),
        }

    return router


def refuse_text(served: ServedPrompt, model: str) -> None:
    """Refuse what answers in free text.

    Raises:
        BadInput: with the address that answers.
    """
    if served.asked.writes:
        raise BadInput(f"{model!r} answers in text, there are no labels to score; ask /v1/completions")


def _line(work: Work, answer: Answer, top_k: int | None) -> dict[str, Any]:
    task = work.served.asked.task
    line: dict[str, Any] = {"truncated": work.truncated}
    if answer.scores is None:
        return {"value": answer.value, **line}
    return {"label": answer.text, "scores": ranked(answer.probabilities(task.labels), top_k), **line}


def ranked(chances: dict[str, float], most: int | None) -> Sequence[dict[str, Any]]:
    """The labels and their probabilities, the likeliest first."""
    order = sorted(chances.items(), key=lambda pair: -pair[1])[:most]
    return [{"label": label, "probability": chance} for label, chance in order]
