"""A tiny study of three claims that was run once."""

import pytest
from experiments.claims import (
    run,
)

from claims_kit import SOME, TINY


@pytest.fixture(scope="session")
def studied(tmp_path_factory):
    """Three claims on a built-in backbone, two steps a run, never stopped."""
    folder = tmp_path_factory.mktemp("claims")
    found = run(folder / "claims.json", store=folder / "store", design=TINY, claims=SOME, progress=False)
    return folder, found
