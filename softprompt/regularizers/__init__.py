"""Perturbation-based regularisers: they compare the answers for perturbed rows with those for the clean rows.

There are four perturbations (random or adversarial, of embeddings or of words), a fifth that is the dropout of the
frozen model, five divergences, and presets of both. A new one takes one file and one line in its table.
"""

from ._base import AbstractPerturbation as AbstractPerturbation
from ._base import PerturbationContext as PerturbationContext
from ._base import Share as Share
from ._divergences import DIVERGENCES as DIVERGENCES
from ._divergences import row_divergences as row_divergences
from ._regularizer import REGULARIZERS as REGULARIZERS
from ._regularizer import Regularizer as Regularizer
from ._regularizer import pass_seed as pass_seed
from ._regularizer import regularizers as regularizers
from ._vocabulary import Vocabulary as Vocabulary
