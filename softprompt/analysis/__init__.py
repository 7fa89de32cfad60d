"""Analysis of trained prompts: their vectors, their norms during training, and the loss around them.

The module `plots` draws the figures.
"""

from .geometry import NormCurve as NormCurve
from .geometry import cosines as cosines
from .geometry import distinct as distinct
from .geometry import mean_cosine as mean_cosine
from .geometry import norm_curve as norm_curve
from .prompt_landscape import Estimate as Estimate
from .prompt_landscape import Landscape as Landscape
from .prompt_landscape import landscape_of as landscape_of
