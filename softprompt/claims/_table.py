"""The claims, in the order of the page and of the runs."""

from ._claim import Claim
from ._drift import DRIFT
from ._equal_steps import EQUAL_STEPS
from ._fixed_norm import FIXED_NORM
from ._norms import NORMS
from ._perturbation import PTP_MEAN, PTP_SPREAD
from ._rates import LEARNING_RATES
from ._repetition import REPETITION
from ._similarity import SIMILARITY
from ._structures import HIDDEN_SIZE, STRUCTURES

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
