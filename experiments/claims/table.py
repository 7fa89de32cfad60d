"""The claims, in the order of the page and of the runs."""

from .claim import Claim
from .drift import DRIFT
from .equal_steps import EQUAL_STEPS
from .fixed_norm import FIXED_NORM
from .learning_rates import LEARNING_RATES
from .norms import NORMS
from .perturbation import PTP_MEAN, PTP_SPREAD
from .repetition import REPETITION
from .similarity import SIMILARITY
from .structures import HIDDEN_SIZE, STRUCTURES

CLAIMS: dict[str, Claim] = {
    "norms": NORMS,
    "similarity": SIMILARITY,
    "repetition": REPETITION,
    "equal-steps": EQUAL_STEPS,
    "fixed-norm": FIXED_NORM,
    "drift": DRIFT,
    "learning-rates": LEARNING_RATES,
    "hidden-size": HIDDEN_SIZE,
    "structures": STRUCTURES,
    "ptp-mean": PTP_MEAN,
    "ptp-spread": PTP_SPREAD,
}
