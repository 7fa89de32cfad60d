"""A small closed world of passages with known facts: it makes rows for the lab's tasks and questions for its backbones.

It is pure Python without data files and yields as many new rows as needed. A passage belongs to the one split that its
words determine.
"""

from ._rows import FAMILIES as FAMILIES
from ._rows import check_options as check_options
from ._rows import rows as rows
from ._sampler import Difficulty as Difficulty
from ._sampler import split_of as split_of
from ._words import ATTRIBUTES as ATTRIBUTES
from ._words import vocabulary as vocabulary
from .questions import KINDS as KINDS
from .questions import MIX as MIX
from .questions import Question as Question
from .questions import question as question
