"""Seeds by purpose: what is drawn for one purpose never depends on what is drawn for another."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator

import torch

# Held while torch's global generators are seeded: they are of the whole process, and a thread that draws meanwhile
# would have other numbers than its seed's.
GENERATORS = threading.RLock()


def stream_seed(seed: int, purpose: str) -> int:
    """Derive a seed for one purpose, so that draws for two purposes from the same user seed are unrelated.

    The result is the first 63 bits of SHA-256("seed/purpose").
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside the `with` block, for this thread alone, and restore them afterwards."""
    devices = [device] if device.type == "cuda" else []
    with GENERATORS, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def seeded_cpu(seed: int) -> Iterator[None]:
    """As `seeded`, for the CPU's generator alone: `torch.manual_seed` would also seed those of the accelerators."""
    with GENERATORS, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
