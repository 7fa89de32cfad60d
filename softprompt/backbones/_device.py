"""The device that a user names."""

import os

import torch

from ..errors import BadInput

# A model that is larger than one device: Accelerate spreads its layers over all of them.
SPREAD = "spread"


def device_of(device: str) -> torch.device:
    """The device of this name, where text begins; "auto" is this process's GPU, where torchrun started one for each."""
    if device in ("auto", SPREAD):
        ours = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
        return torch.device(ours if torch.cuda.is_available() else "cpu")
    here = _devices_here()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {device!r} does not exist on this machine; give {here}") from error
    if place.type == "meta":
        raise BadInput(f"--device {device!r} cannot compute; give {here}")
    return place


def _devices_here() -> str:
    """The devices of this machine in words."""
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ", ".join(["auto", SPREAD, "cpu", *cuda, *mps]) + ("" if cuda else " (it has no CUDA device)")
