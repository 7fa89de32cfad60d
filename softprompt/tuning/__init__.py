"""Tuning: a search for the settings of a prompt, chosen on some rows and reported on others.

    tuned = tune("reviews.csv", "smollm2", text_column="text", label_column="label", minutes=30)
    tuned.score, tuned.settings, tuned.prompt()

Optuna proposes settings, candidates train in fleets, the worse half stops at fixed rungs, and the default stays unless
another candidate leads it convincingly. Everything is on disk as it ends, so that a killed search goes on.
"""

from ._damage import damaged_search as damaged_search
from ._damage import is_search as is_search
from ._report import Lead as Lead
from ._report import Line as Line
from ._report import Tuning as Tuning
from ._tune import tune as tune
