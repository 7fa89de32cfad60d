"""Tasks: what to read, what to ask, what counts as right. Plain data; no torch, no model, no rows."""

from ..errors import pick
from ._answers import answer_text as answer_text
from ._answers import class_of as class_of
from ._answers import gold as gold
from ._answers import label_values as label_values
from ._answers import styled as styled
from ._base import Rendered as Rendered
from ._base import Task as Task
from ._custom import custom_task as custom_task
from ._custom import in_lines as in_lines
from ._custom import on_rows as on_rows
from ._custom import own_records as own_records
from ._custom import place_of as place_of
from ._foreign import allowed as allowed
from ._foreign import foreign as foreign
from ._foreign import named_files as named_files
from ._foreign import refuse_foreign as refuse_foreign
from ._instruct import INSTRUCT as INSTRUCT
from ._instruct import has_instruct as has_instruct
from ._instruct import instruct as instruct
from ._lab import with_difficulty as with_difficulty
from ._lab_instruction import lab_instruction as lab_instruction
from ._labels import LabelledWords as LabelledWords
from ._labels import label_words_of as label_words_of
from ._layouts import LAYOUTS as LAYOUTS
from ._memory import MemoryRows as MemoryRows
from ._memory import holds_rows as holds_rows
from ._memory import is_a as is_a
from ._memory import plain_cell as plain_cell
from ._memory import row_dicts as row_dicts
from ._names import TaskNames as TaskNames
from ._names import row_names as row_names
from ._numbers import finite_number as finite_number
from ._official import OFFICIAL_ROWS as OFFICIAL_ROWS
from ._patterns import PATTERNS as PATTERNS
from ._patterns import Pattern as Pattern
from ._patterns import open_ended as open_ended
from ._places import read_from as read_from
from ._places import stored_in as stored_in
from ._prepare import PREPARATIONS as PREPARATIONS
from ._prepare import refuse_unregistered as refuse_unregistered
from ._records import ABSENT as ABSENT
from ._records import Record as Record
from ._records import columns_of as columns_of
from ._records import text_fault as text_fault
from ._records import value_of as value_of
from ._rephrase import OWN_STYLE as OWN_STYLE
from ._rephrase import Wording as Wording
from ._rephrase import refuse_template as refuse_template
from ._rephrase import rephrased as rephrased
from ._source import SPLITS as SPLITS
from ._source import Source as Source
from ._stored import check_stored as check_stored
from ._table import GROUPS as GROUPS
from ._table import TASKS as TASKS
from ._template import template_columns as template_columns
from ._template import template_shown as template_shown
from .files import ENDINGS as ENDINGS
from .files import FORMATS as FORMATS
from .files import is_data_file as is_data_file
from .files import paths_of as paths_of
from .files import records as records


def task(name: str) -> Task:
    """The declared task of that name, in style "words".

    Raises:
        UnknownName: with the nearest known name.
    """
    return pick("task", name, TASKS)
