"""The board: a page on this machine that lists runs, compares their curves and follows those in training.

It reads folders and writes nothing. It answers this machine alone: the server listens on the loopback address, and
requests that name another host are refused, so that a web page elsewhere cannot read it through the user's browser.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, StorageFailure
from ..spoken import duration
from ._views import PromptView, RunView, look, sparkline

if TYPE_CHECKING:
    from fastapi import FastAPI

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
# So many runs are listed, the newest.
MOST_RUNS = 500
# So many runs are compared: as many as there are colours.
MOST_COMPARED = 8
# A curve has so many points at most.
MOST_POINTS = 300
# No script but the board's own; figures carry styles.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'"
_FILES = {"style.css": "text/css", "script.js": "text/javascript"}
_DRAWING = threading.Lock()


def serve(folder: "Path | str", port: int, tell: Callable[[str], None]) -> None:
    """Serve the board until Ctrl-C.

    Args:
        folder: of runs and stores.
        port: on this machine; 0 takes a free one.
        tell: is given the address.

    Raises:
        BadInput: no such folder, or the extra `board` is not installed.
        StorageFailure: the port is taken.
    """
    import socket

    app = board(folder)
    import uvicorn

    try:
        listening = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise StorageFailure(f"cannot listen on port {port}: {error.strerror}; give another --port") from error
    with listening:
        tell(f"http://{LOOPBACK}:{listening.getsockname()[1]}")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        server.run(sockets=[listening])


def board(folder: "Path | str") -> "FastAPI":
    """The board of a folder as an application.

    Raises:
        BadInput: no such folder, or the extra `board` is not installed.
    """
    try:
        from fastapi import FastAPI, Query, Response
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError as error:
        raise BadInput('the board needs FastAPI; pip install "softprompt[board]"') from error
    look(folder, most=0)
    app = FastAPI(title="softprompt board", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))

    def html(name: str, **values: Any) -> Response:
        return Response(_template(name, values), media_type="text/html", headers={"Content-Security-Policy": POLICY})

    @app.get("/")
    def page() -> Response:
        return html("board.html", **_listed(folder), folder=str(folder))

    @app.get("/runs")
    def runs() -> Response:
        return html("runs.html", **_listed(folder))

    @app.get("/curves")
    def curves(run: "list[str]" = Query(default=[])) -> Response:  # noqa: B008  (FastAPI's way)
        views = {view.name: view for view in look(folder, MOST_RUNS)}
        chosen = [views[name] for name in run if name in views]
        return html("curves.html", figures=_figures(chosen[:MOST_COMPARED]), left_out=len(chosen) - MOST_COMPARED)

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in _FILES:
            return Response("no such page", status_code=404, media_type="text/plain")
        return Response((_TEMPLATES / name).read_bytes(), media_type=_FILES[name])

    return app


_TEMPLATES = Path(__file__).parent / "templates"


def _template(name: str, values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Everything in a page is text unless it is a figure of our own.
    templates = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return templates.get_template(name).render(values)


def _listed(folder: "Path | str") -> dict[str, Any]:
    """What the list of runs shows."""
    runs = look(folder, MOST_RUNS)
    states = [run.state for run in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    best = max((run for run in runs if run.best is not None), key=lambda run: run.best or 0.0, default=None)
    return {"rows": [_row(run) for run in runs], "counts": counts, "best": best, "is_cut": len(runs) == MOST_RUNS}


def _row(run: RunView) -> dict[str, Any]:
    best = max(
        run.prompts, key=lambda prompt: -1e9 if prompt.best is None else prompt.best, default=PromptView(name="")
    )
    ago = time.time() - run.changed
    notes = [f"{prompt.name}: {prompt.note}" for prompt in run.prompts if prompt.note]
    return {
        "run": run,
        "prompts": best.name if len(run.prompts) == 1 else f"{len(run.prompts)} prompts",
        "progress": f"{run.step} / {run.steps}" if run.steps else str(run.step),
        "left": "" if run.seconds_left is None else f"{duration(run.seconds_left)} left",
        "loss": sparkline(best.losses, 16),
        "last_loss": f"{best.losses[-1]:.3f}" if best.losses else "",
        "best": "" if best.best is None else f"{best.best:.3f}",
        "best_name": best.name,
        "test": "" if best.test is None else f"{best.test:.3f}",
        "changed": f"{duration(ago)} ago" if ago < 86400 else time.strftime("%Y-%m-%d", time.localtime(run.changed)),
        "notes": "; ".join(notes),
    }


def _figures(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """The curves of some runs as figures with their values in words; empty without the plotting library."""
    from markupsafe import Markup

    try:
        from ..analysis import page_figures, plots
    except ModuleNotFoundError:
        return []
    figures = []
    for title, y, log_y, curves in (
        ("Training loss", "loss", True, [(p.steps, p.losses) for r in runs for p in r.prompts]),
        ("Validation score", "validation score", False, [_scores(p) for r in runs for p in r.prompts]),
    ):
        names = [run.name for run in runs for _ in run.prompts]
        lines: dict[str, list[Any]] = {}
        for name, (steps, values) in zip(names, curves, strict=True):
            if steps:
                every = -(-len(steps) // MOST_POINTS)
                # A dollar would begin a formula.
                lines.setdefault(name.replace("$", r"\$"), []).append((steps[::every], values[::every]))
        if lines:
            with _DRAWING, plots.page_style():
                drawn = plots.page_svg(
                    page_figures.learning_figure(lines, y=y, log_y=log_y), f"f{len(figures)}", (6.4, 3.8)
                )
            ends = "; ".join(f"{name} ends at {each[0][1][-1]:.3g}" for name, each in lines.items())
            figures.append({"title": title, "svg": Markup(drawn), "text": f"{title} over steps. {ends}."})
    return figures


def _scores(prompt: PromptView) -> tuple[list[int], list[int | float]]:
    return [step for step, _ in prompt.scored], [score for _, score in prompt.scored]
