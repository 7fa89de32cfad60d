"""Stores of studies among the paths of a command: each stands for the prompts that it keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from ..errors import BadInput


class Placed(TypedDict):
    """Paths of runs and prompts, and the names that are chosen in each of the runs."""

    paths: Sequence[str | Path]
    prompts: Sequence[str]


def kept_in_stores(paths: Sequence[str], prompts: Sequence[str]) -> Placed:
    """The paths without stores: in place of each stand the prompts that it keeps.

    Args:
        paths: of runs, prompts and stores.
        prompts: names that are chosen in each run and store.

    Raises:
        BadInput: names are given for runs and for stores, or a store keeps no such prompt.
    """
    from ..study import is_store, kept_prompts

    stores = {path for path in paths if is_store(path)}
    if not stores:
        return {"paths": paths, "prompts": prompts}
    if prompts and not stores.issuperset(paths):
        raise BadInput("--prompt chooses among the prompts of runs or those of stores; give runs and stores apart")
    places = [place for path in paths for place in (kept_prompts(path, prompts) if path in stores else [path])]
    return {"paths": places, "prompts": ()}
