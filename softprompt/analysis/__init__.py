"""What trained prompts are like: how long their vectors, how alike, how they came to be. Figures in `plots`."""

from .geometry import NormCurve as NormCurve
from .geometry import cosines as cosines
from .geometry import distinct as distinct
from .geometry import mean_cosine as mean_cosine
from .geometry import norm_curve as norm_curve
from .geometry import norms as norms
