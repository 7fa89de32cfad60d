"""Claims of the papers, tested on a built-in backbone and judged by rules that were written before the runs.

    results = run("claims.json", store="runs/claims", design=QUICK)  # again: only what is missing
    page(results)  # Markdown: a verdict for each claim, with n, interval and condition
    write(results, "docs/results")  # claims.md and its figures, from the results alone

A claim is one entry of CLAIMS: what is trained for it, and the checks that decide it.
"""

from .arm import Arm as Arm
from .arm import Setting as Setting
from .check import Check as Check
from .check import at_least as at_least
from .check import verdict as verdict
from .check import within as within
from .claim import Claim as Claim
from .design import FULL as FULL
from .design import QUICK as QUICK
from .design import Design as Design
from .page import TABLES as TABLES
from .page import page as page
from .page import tables as tables
from .results import Results as Results
from .results import read_results as read_results
from .run import run as run
from .table import CLAIMS as CLAIMS
from .write import write as write
