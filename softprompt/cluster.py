"""Ray, which runs studies and servers over several processes or machines."""

import os
from typing import Any


def start_ray(ray: Any, processors: int, address: str | None) -> None:
    """Join a running cluster, or start Ray on this machine.

    Args:
        ray: the module, untyped: it types the options of actors only where they are written out.
        processors: what Ray may count on this machine, at least all there are.
        address: of a running cluster; None starts Ray here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    if address is not None:
        ray.init(address=address, **quiet)
        return
    processors = max(processors, os.cpu_count() or 1)
    ray.init(num_cpus=processors, include_dashboard=False, object_store_memory=100 * 2**20, **quiet)


def slot_of(ray: Any) -> dict[str, int]:
    """What one actor takes of the cluster: a GPU where there is any, else a processor."""
    return {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
