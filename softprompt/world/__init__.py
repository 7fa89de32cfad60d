"""A small world of passages whose every fact is known: rows for the lab's tasks, questions for its backbones.

Pure Python, no data files, unlimited fresh rows. Each passage belongs to one split by its own words.
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
