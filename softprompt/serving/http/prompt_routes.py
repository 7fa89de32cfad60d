"""`/prompts`: which prompts are served; with the admin token they are added, replaced and removed while it runs."""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from ...errors import BadInput, SoftPromptError
from ...prompts.prompt import SoftPrompt
from ...store import from_document, read_tensors
from ..bank import refuse_name
from ..served import ServedPrompt
from .problems import not_served
from .schemas import Upload
from .service import Service


def prompt_routes(service: Service) -> APIRouter:
    """The routes of `/prompts`."""
    router, bank = APIRouter(prefix="/prompts", tags=["prompts"]), service.bank

    def described(served: ServedPrompt) -> dict[str, Any]:
        return description(served, service.named(served))

    @router.get("")
    async def prompts() -> dict[str, Any]:
        """All prompts, with what each answers."""
        return {
            "model": service.settings.model_name,
            "prompts": [described(served) for served in bank.prompts.values()],
        }

    @router.get("/{name}")
    async def prompt(name: str) -> dict[str, Any]:
        """One of them."""
        return described(_served(service, name))

    # Not async: reading and checking a prompt would hold up the answers.
    @router.put("/{name}", status_code=201)
    def put(name: str, upload: Upload, response: Response) -> dict[str, Any]:
        """Add or replace a prompt, until the server ends. Requests that were taken before get the old one."""
        refuse_name(name)
        is_new = name not in bank.prompts
        if refused := bank.put([(name, read_upload(name, upload))]):
            raise BadInput(refused[0].reason)
        response.status_code = 201 if is_new else 200
        return described(bank.get(name))

    @router.delete("/{name}")
    async def delete(name: str) -> dict[str, Any]:
        """Serve a prompt no longer."""
        served = _served(service, name)
        bank.remove([name])
        return {"id": service.named(served), "deleted": True}

    return router


def _served(service: Service, name: str) -> ServedPrompt:
    try:
        return service.bank.get(name)
    except SoftPromptError as error:
        raise not_served(error) from error


def description(served: ServedPrompt, model: str) -> dict[str, Any]:
    """What a client needs to know of a prompt; nothing of where it is stored."""
    asked = served.asked
    provenance = None if served.prompt is None else served.prompt.provenance
    return {
        "name": served.name,
        "model": model,
        "version": served.version,
        "method": "" if provenance is None else provenance.method,
        "length": served.length,
        "task": asked.task.name,
        "answers": "text" if asked.writes else asked.task.answer,
        "labels": list(asked.task.labels),
        "columns": list(asked.task.columns),
        "max_tokens": asked.limit,
        "is_calibrated": asked.scoring.calibration is not None,
    }


def read_upload(name: str, upload: Upload) -> SoftPrompt:
    """The prompt that was sent, checked as one that is read from a folder.

    Raises:
        BadInput: the files do not hold a prompt.
        DamagedFile: they contradict each other.
    """
    try:
        content = base64.b64decode(upload.tensors, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("`tensors` is not base64; send the bytes of prompt.safetensors in it") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.safetensors"
        file.write_bytes(content)
        try:
            return from_document(upload.document, read_tensors(file), name)
        except SoftPromptError as error:
            raise type(error)(error.message.replace(folder + "/", "")) from error
