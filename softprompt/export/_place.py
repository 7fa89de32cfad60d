"""Folders too large to be held in memory: built beside their place, then renamed into it."""

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..checks import refuse_exists
from ..errors import StorageFailure
from ..store import remove_leftovers

# What safetensors and tokenizers raise where the disk is full; it is no OSError.
RUST_FAILURE = re.compile(r"\(os error \d+\)")


@contextlib.contextmanager
def building(target: "str | Path", what: str) -> Iterator[Path]:
    """Yield a new folder that takes its place when the `with` block ends well, and is gone when it does not.

    What killed processes left beside the place is removed.

    Args:
        target: the place; an empty folder there is taken.
        what: name of what is stored, for messages: "the baked model".

    Raises:
        BadInput: the place is taken.
        StorageFailure: the disk is full or not writable.
    """
    target = Path(target).absolute()
    refuse_exists(target, what, empty_folder=True)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, glob.escape(target.name))
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        temporary.chmod(0o755)
        yield temporary
        # Renaming onto an empty folder replaces it.
        os.replace(temporary, target)
    except Exception as error:
        if not isinstance(error, OSError) and not RUST_FAILURE.search(str(error)):
            raise
        raise StorageFailure(
            f"could not write {what} to {str(target)!r}: {getattr(error, 'strerror', None) or error}; "
            "free some space or choose a place that can be written"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
