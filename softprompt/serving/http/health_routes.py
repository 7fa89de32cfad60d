"""`/health`, `/ready`, `/metrics`, and the page at `/`."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from .page import page, policy
from .problems import response
from .service import Service


def health_routes(service: Service) -> APIRouter:
    """What is asked about the server itself."""
    router = APIRouter(tags=["server"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers at all."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> Any:
        """Whether requests are taken: not while the server ends."""
        if service.is_ready:
            return {"status": "ready"}
        return response(503, "the server takes no requests now", "draining", headers={"Retry-After": "5"})

    @router.get("/metrics")
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        """A page to try the prompts."""
        return HTMLResponse(page(), headers={"Content-Security-Policy": policy(), "Referrer-Policy": "no-referrer"})

    return router
