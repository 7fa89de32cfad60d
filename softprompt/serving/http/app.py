"""The app: routes, errors and the guard around them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ...errors import SoftPromptError
from .classify_routes import classify_routes
from .guard import Guard
from .health_routes import health_routes
from .openai_routes import openai_routes
from .problems import register
from .prompt_routes import prompt_routes
from .service import Service

log = logging.getLogger("softprompt.serving")


def build_app(
    service: Service, *, drain: float = 30.0, again: Callable[[], Any] | None = None, every: float = 2.0
) -> FastAPI:
    """The ASGI app of a service, which starts and ends with it.

    Args:
        service: what is served.
        drain: seconds that the end of the app waits for requests that were taken.
        again: is called every so many seconds to look for changed prompts; None looks never.
        every: these seconds.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        watching = None if again is None else asyncio.create_task(_watch(again, every))
        yield
        if watching is not None:
            watching.cancel()
        await service.batcher.close(drain)

    app = FastAPI(
        title="softprompt",
        description="Many soft prompts over one frozen model.",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    for routes in (openai_routes, classify_routes, prompt_routes, health_routes):
        app.include_router(routes(service))
    register(app)
    if service.settings.hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(service.settings.hosts))
    # Added last, so that it is the outermost.
    app.add_middleware(Guard, service=service)
    return app


async def _watch(again: Callable[[], Any], every: float) -> None:
    told = ""
    while True:
        await asyncio.sleep(every)
        reason = ""
        try:
            await asyncio.to_thread(again)
        # What was served goes on, whatever happened to the folder.
        except Exception as error:
            reason = error.message if isinstance(error, SoftPromptError) else type(error).__name__
        if reason and reason != told:
            log.warning("the prompts cannot be read again now: %s", reason)
        told = reason
