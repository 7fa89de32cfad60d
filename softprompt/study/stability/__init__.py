"""Stability: how much a score varies with the seed, and whether a setting lowers this variation.

    base = {"task": "lab/opinion", "model": "lab-t5", "steps": 250, "shots": 32, "train_score": True}
    settings = {
        "none": grid(**base, method="prompt-tuning")[0],
        "guarded": grid(**base, method="prompt-tuning", max_norm=4.0)[0],
    }
    found = measure(plan(settings, seeds=20), "studies/stability")  # again: only what is missing
    print(text(found))  # or write(found, "report"): JSON, Markdown, figures

What is stored already is judged without a plan: `report({"none": Arm.of("none", runs), ...})`.
"""

from ._against import Against as Against
from ._against import against as against
from ._against import corrected as corrected
from ._against import has_fallen as has_fallen
from ._against import lost as lost
from ._arm import Arm as Arm
from ._arm import last_loss as last_loss
from ._plan import Plan as Plan
from ._plan import arms as arms
from ._plan import as_given as as_given
from ._plan import by_setting as by_setting
from ._plan import measure as measure
from ._plan import plan as plan
from ._report import Report as Report
from ._report import report as report
from ._seeds import SOURCES as SOURCES
from ._seeds import seed_sets as seed_sets
from ._spread import Spread as Spread
from ._spread import spread as spread
from ._text import remarks as remarks
from ._text import tables as tables
from ._text import text as text
from ._text import title as title
from ._untrained import Gain as Gain
from ._untrained import Untrained as Untrained
from ._write import refuse_other_report as refuse_other_report
from ._write import write as write
