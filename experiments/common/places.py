"""Where the studies of a checkout keep results and pages, whatever folder they are started from."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
DOCS = ROOT / "docs"
PAGES = DOCS / "results"
