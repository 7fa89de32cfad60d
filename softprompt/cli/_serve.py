"""`softprompt serve`: one frozen model and a folder of prompts, behind HTTP."""

import contextlib
import dataclasses
import importlib.util
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checks import require_numbers
from ..errors import BadInput
from ._flatten import flatten
from .options import Device, Frozen
from .printing import say

if TYPE_CHECKING:
    from ..serving.http import ServerSettings
    from ..settings import ModelSpec

KEYS, TOKEN = "SOFTPROMPT_API_KEYS", "SOFTPROMPT_ADMIN_TOKEN"


@flatten
def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Frozen model: hub id, folder, GGUF file, or built in.")
    ],
    *,
    prompts: Annotated[
        Path, typer.Option(help="Folder of prompts: stored prompts, runs, or both; or a file that `bank` packed.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at. The default reaches this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port. 0 takes a free one.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option(help="First part of the models' names: NAME:PROMPT. Default: the model's last name.")
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help=f"File of API keys, one a line. Default: those in ${KEYS}, by commas.")
    ] = None,
    admin_token: Annotated[
        Path | None, typer.Option(help=f"File with the token for changes of prompts. Default: ${TOKEN}, or no changes.")
    ] = None,
    watch: Annotated[
        float, typer.Option(min=0, help="Seconds between two looks for changed prompts. 0 means never.")
    ] = 2.0,
    device: Device = "auto",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Largest number of positions in one pass.")] = 16384,
    batch_rows: Annotated[int, typer.Option(min=1, help="Largest number of rows in one pass.")] = 64,
    max_wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a row waits for others at most.")] = 2.0,
    prefix_memory: Annotated[
        int, typer.Option(min=0, help="Largest memory of compiled prompts of a decoder, in MiB. 0 compiles none.")
    ] = 256,
    waiting_tokens: Annotated[
        int, typer.Option(min=1, help="Largest number of positions that may wait. More is refused.")
    ] = 262144,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a request is given up.")] = 60.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds to answer what was taken, after the signal to end.")
    ] = 30.0,
    body_bytes: Annotated[int, typer.Option(min=1, help="Largest body of a request, in bytes.")] = 2**20,
    max_inputs: Annotated[int, typer.Option(min=1, help="Largest number of texts of one request.")] = 256,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Replicas on Ray Serve, each with the model. Default: one, without Ray.")
    ] = None,
    frozen: Frozen,
) -> None:
    """Serve stored prompts over one frozen model: OpenAI's API, /classify, and a page to try them."""
    refuse_without("serve", "fastapi", "prometheus_client", "uvicorn")
    require_numbers({"watch": watch, "drain": drain}, zero=True)
    keys, token = secrets(api_keys, KEYS, ","), secrets(admin_token, TOKEN)
    from ..serving import Engine, Limits, filled
    from ..serving.http import ServerSettings, Service, build_app, listen, logged, server_of
    from ..serving.http.settings import hosts_for, is_loopback

    if not keys and not is_loopback(host):
        raise BadInput(f"--host={host} lets others in; give --api-keys FILE, or ${KEYS}")
    limits = Limits(
        batch_tokens=batch_tokens,
        batch_rows=batch_rows,
        max_wait=max_wait / 1000,
        waiting_tokens=waiting_tokens,
        timeout=timeout,
    )
    settings = ServerSettings(
        model_name=model_name or Path(model).name,
        keys=keys,
        admin_token=token[0] if token else None,
        body_bytes=body_bytes,
        max_inputs=max_inputs,
        hosts=hosts_for(host),
    )
    spec = dataclasses.replace(frozen, name=model, device=device)
    prefix_bytes = prefix_memory * 2**20
    if replicas is not None:
        replica = {"limits": limits, "prefix_bytes": prefix_bytes, "watch": watch, "drain": drain}
        on_ray(spec, prompts, settings, replicas, host, port, replica)
        return
    # Before the model is loaded, which may take minutes.
    with contextlib.closing(listen(host, port)) as listener:
        # What is refused is told by the log.
        bank, again, _ = filled(spec, prompts)
        service = Service(bank, Engine(bank.admission.backbone, prefix_bytes=prefix_bytes), settings, limits)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        say(f"{len(bank.prompts)} prompts for {settings.model_name} at {address} (the page to try them is there, too)")
        with logged():
            app = build_app(service, drain=drain, again=again if watch else None, every=watch)
            server_of(app, service, drain=drain).run(sockets=[listener])


def on_ray(
    spec: "ModelSpec",
    prompts: Path,
    settings: "ServerSettings",
    count: int,
    host: str,
    port: int,
    more: Mapping[str, Any],
) -> None:
    """Serve by replicas until Ctrl-C or SIGTERM.

    Raises:
        BadInput: Ray Serve is missing, the port is any, there is an admin token, or there are no prompts.
    """
    from ..serving import as_trained
    from ..serving.http.replicas import Replica, replicated

    if port == 0:
        raise BadInput("give a --port with --replicas: Ray does not say which free one it took")
    replica = Replica(model=as_trained(spec, prompts), prompts=prompts.absolute(), settings=settings, **more)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with replicated(replica, count, host=host, port=port) as address:
        say(f"{count} replicas of {settings.model_name} at {address} (the page to try the prompts is there, too)")
        ended.wait()


def refuse_without(extra: str, *modules: str) -> None:
    """Refuse where a part of an extra is not installed.

    Raises:
        BadInput: names the extra.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise BadInput(f"{', '.join(missing)} is not installed; run: pip install 'softprompt[{extra}]'")


def secrets(file: Path | None, variable: str, separator: str | None = None) -> tuple[str, ...]:
    """The secrets in a file, one a line, or those of an environment variable; never of the command line.

    Raises:
        BadInput: the file cannot be read, or is empty.
    """
    if file is None:
        given = os.environ.get(variable, "")
        return tuple(part.strip() for part in (given.split(separator) if separator else [given]) if part.strip())
    try:
        lines = file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {str(file)!r}; give a file with one secret a line") from error
    if not lines:
        raise BadInput(f"{str(file)!r} is empty; write a key into it, or leave the option out")
    return tuple(lines)
