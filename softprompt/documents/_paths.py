"""Paths as they are shown beside each other."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import PurePath


def short_paths(paths: Sequence[PurePath]) -> list[str]:
    """Each path by its shortest end that no other has: files and folders of one name are told apart.

    Args:
        paths: whole ones.
    """
    different = set(paths)

    @cache
    def ends(length: int) -> Counter[tuple[str, ...]]:
        return Counter(path.parts[-length:] for path in different)

    def end(path: PurePath) -> str:
        own = (path.parts[-n:] for n in range(1, len(path.parts) + 1) if ends(n)[path.parts[-n:]] == 1)
        return "/".join(next(own, path.parts))

    return [end(path) for path in paths]
