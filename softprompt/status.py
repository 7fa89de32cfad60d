"""The status of a prompt in training: the text that checkpoints and results store, written and read here alone."""

TRAINING, FINISHED = "training", "finished"
_STOPPED, _DROPPED = "stopped early at step", "dropped"


def stopped(step: int, reason: str = "") -> str:
    """The status of a prompt whose training ended early, because it no longer got better or a callback wanted it."""
    return f"{_STOPPED} {step}{reason and ': '}{reason}"


def dropped(step: int, reason: str) -> str:
    """The status of a prompt with which training could not go on."""
    return f"{_DROPPED} at step {step}: {reason}"


def is_dropped(status: str) -> bool:
    """Whether training could not go on."""
    return status.startswith(_DROPPED)


def stop_reason(status: str) -> str:
    """Why a callback stopped a prompt; empty where none did, or none said why."""
    return status.partition(": ")[2] if status.startswith(_STOPPED) else ""
