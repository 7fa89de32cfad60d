"""Several replicas of the server on Ray Serve: each holds the frozen model, all read the same prompts.

Ray starts replicas, gives each request to one of those with the least to do, and starts those again that die. What a
replica answers is computed by the same app as without Ray.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ...cluster import slot_of, start_ray
from ...errors import BadInput
from ...settings import ModelSpec
from ..engine import Engine
from ..loading import filled
from ..passes import Limits
from ..prefixes import PREFIX_BYTES
from .app import build_app
from .service import Service
from .settings import ServerSettings

# Requests that a replica may hold; what is too much for its model is refused by its batcher, with Retry-After.
ONGOING = 2048


@final
@dataclass(frozen=True, kw_only=True)
class Replica:
    """What each replica is made of. It travels to other machines, which have to see the same prompts.

    Args:
        model: the frozen model.
        prompts: the folder of prompts, or the packed file.
        settings: of the server; an admin token is refused, for a change would reach one replica alone.
        limits: of each replica's batcher.
        prefix_bytes: memory of the compiled prompts of a replica.
        watch: seconds between looks for changed prompts; 0 is never.
        drain: seconds for what was taken, at the end.
    """

    model: ModelSpec
    prompts: Path
    settings: ServerSettings
    limits: Limits
    prefix_bytes: int = PREFIX_BYTES
    watch: float = 2.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        """Refuse changes.

        Raises:
            BadInput: there is an admin token.
        """
        if self.settings.admin_token is not None:
            raise BadInput(
                "a change by PUT reaches one replica and not the others; leave the admin token out, and put prompts "
                "into the folder, which all replicas watch"
            )

    def app(self) -> Any:
        """The app of one replica, with a model of its own."""
        bank, again, _ = filled(self.model, self.prompts)
        engine = Engine(bank.admission.backbone, prefix_bytes=self.prefix_bytes)
        service = Service(bank, engine, self.settings, self.limits)
        return build_app(service, drain=self.drain, again=again if self.watch else None, every=self.watch)


@contextmanager
def replicated(
    replica: Replica, count: int, *, host: str = "127.0.0.1", port: int = 8000, address: str | None = None
) -> Iterator[str]:
    """Within, so many replicas answer at the address that is given.

    Args:
        replica: what each is made of.
        count: number of replicas; each has one GPU where the cluster has any, else one processor.
        host: where Ray's proxy listens.
        port: likewise.
        address: of a running cluster; None starts Ray on this machine.

    Raises:
        BadInput: Ray Serve is not installed.
    """
    ray, serve = _ray_serve()
    # One processor more, for the controller of Ray Serve and its proxy.
    start_ray(ray, count + 1, address)
    try:
        serve.start(http_options={"host": host, "port": port})
        # A function, and no method: Ray makes the app of it where the replica is.
        ingress = serve.ingress(lambda: replica.app())()
        deployment = serve.deployment(
            ingress, name="softprompt", num_replicas=count, max_ongoing_requests=ONGOING, ray_actor_options=slot_of(ray)
        )
        serve.run(deployment.bind(), name="softprompt", route_prefix="/")
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def _ray_serve() -> tuple[Any, Any]:
    """Ray and Ray Serve, untyped.

    Raises:
        BadInput: one of them is missing.
    """
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise BadInput("--replicas needs Ray Serve; pip install 'softprompt[serve,ray]'") from error
    return ray, serve
