"""The study from its beginning to its end: rates, the frozen model, and the pieces in their order."""

import time
from collections.abc import Sequence
from pathlib import Path

from .design import TASK_ORDER, Piece, Try, pieces, rate_pieces, small_pieces, small_rate_pieces
from .frozen import score_frozen
from .results import Folder, bundle
from .runs import load, train_missing
from .tables import chosen_rates

# Of another process, which has the last rates.
PAUSE = 2.0


def run_study(
    folder: Folder,
    *,
    model: str,
    data_root: Path,
    bundle_file: Path | None,
    fleet: int,
    until: float,
    memory_share: float,
    tf32: bool,
    quick: bool,
    small: bool = False,
    small_rates: bool = False,
) -> int:
    """Do what is missing, and return how many pieces are left."""
    backbone = load(model, memory_share, tf32=tf32)
    rates = Folder(folder.results / "rates", folder.work)
    size = Try() if quick else None

    def train(wanted: Sequence[Piece], place: Folder) -> int:
        left, chosen = 0, wanted if size is None else wanted[: size.pieces]
        for number, piece in enumerate(chosen):
            if time.monotonic() > until:
                return left + len(chosen) - number
            left += not train_missing(piece, backbone, place, data_root, size)
            if bundle_file is not None:
                bundle(folder.results, bundle_file)
        return left

    if small_rates:
        return train(small_rate_pieces(), rates)
    if small:
        wanted = small_pieces()
        for name in dict.fromkeys(piece.task for piece in wanted):
            score_frozen(name, backbone, folder, data_root, size)
        return train(wanted, folder)
    train(rate_pieces(fleet), rates)
    for name in TASK_ORDER[:1] if quick else TASK_ORDER:
        score_frozen(name, backbone, folder, data_root, size)
    while train(rate_pieces(fleet), rates) and time.monotonic() < until:
        time.sleep(PAUSE)
    return train(pieces(chosen_rates(rates.read()), fleet), folder)
