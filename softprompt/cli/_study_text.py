"""The state of a study as people read it in a terminal."""

from typing import TYPE_CHECKING

from ..spoken import duration

if TYPE_CHECKING:
    from ..study import Status

# So many lines of fleets and failures; --json has all.
MOST = 8


def study_text(status: "Status") -> str:
    """Counts, who trains what, what failed, and the time left."""
    parts = [f"{status.stored} of {status.total} runs stored", f"{status.running} in training", f"{status.left} left"]
    if status.failed:
        parts.append(f"{len(status.failed)} failed")
    if status.seconds_left is not None:
        parts.append(f"about {duration(status.seconds_left)} to go")
    lines = [", ".join(parts)]
    for fleet in status.training[:MOST]:
        silent = f", silent for {duration(fleet.silent)}" if fleet.silent > fleet.seconds / 2 else ""
        lines.append(f"  {fleet.host} (process {fleet.pid}): {len(fleet.names)} runs, step {fleet.step}{silent}")
    lines += [f"  failed {name}: {reason}" for name, reason in list(status.failed.items())[:MOST]]
    return "\n".join(lines)
