"""Claims: what the papers say, tried on a built-in backbone and judged by rules that were written before the runs.

    results = run("claims.json", store="runs/claims", design=QUICK)  # again: only what is missing
    page(results)  # Markdown: a verdict for each claim, with n, interval and condition
    write(results, "docs")  # claims.md and its figures, from the results alone

A claim is one entry of CLAIMS: what is trained for it, and the checks that decide it.
"""

from ._arm import Arm as Arm
from ._arm import Setting as Setting
from ._check import Check as Check
from ._check import at_least as at_least
from ._check import verdict as verdict
from ._check import within as within
from ._claim import Claim as Claim
from ._design import FULL as FULL
from ._design import QUICK as QUICK
from ._design import Design as Design
from ._page import page as page
from ._results import Results as Results
from ._results import read_results as read_results
from ._run import run as run
from ._table import CLAIMS as CLAIMS
from ._write import write as write
