"""Perturbation-based regularisers: perturbed rows, held against the clean ones.

Four perturbations (random or adversarial, of embeddings or of words) and one that is the model's own dropout; five
divergences; presets over them. Adding one is a file and a line in its table.
"""

from ._base import AbstractPerturbation as AbstractPerturbation
from ._base import PerturbationContext as PerturbationContext
from ._base import Share as Share
from ._divergences import DIVERGENCES as DIVERGENCES
from ._divergences import row_divergences as row_divergences
from ._regularizer import REGULARIZERS as REGULARIZERS
from ._regularizer import Regularizer as Regularizer
from ._regularizer import regularizers as regularizers
from ._vocabulary import Vocabulary as Vocabulary
