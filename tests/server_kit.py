"""What the tests of the server share: a server in this process, and clients."""

import asyncio
from typing import Any

import httpx
from softprompt.serving import Engine, Limits, PromptBank
from softprompt.serving.http import ServerSettings, Service, build_app

TOKEN = "a-token-for-changes"


def served(bank: PromptBank, test: Any, limits: Limits | None = None, **settings: Any) -> Any:
    """Run a test that is given a client of an app with this bank, and the service."""
    service = Service(bank, Engine(bank.admission.backbone), ServerSettings(model_name="tiny", **settings), limits)
    app = build_app(service, drain=1.0)

    async def run() -> Any:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as c,
        ):
            return await test(c, service)

    return asyncio.run(run())
