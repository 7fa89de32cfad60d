"""The command line without the folder of rows that the machine may name."""

import pytest


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SOFTPROMPT_DATA_ROOT", raising=False)
