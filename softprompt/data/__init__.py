"""From rows to batches: loading, splitting, drawing, tokenising and ordering. Everything random is seeded."""

from ..prompts.batch import SPECIAL as SPECIAL
from ..prompts.batch import TEMPLATE as TEMPLATE
from ..prompts.batch import UNKNOWN as UNKNOWN
from ._batches import cut as cut
from ._batches import epoch_batches as epoch_batches
from ._batches import stream as stream
from ._drawn import drawn_rows as drawn_rows
from ._examples import Examples as Examples
from ._examples import Ragged as Ragged
from ._examples import Windows as Windows
from ._rows import load_rows as load_rows
from ._splits import SPLIT_SEED as SPLIT_SEED
from ._splits import Splits as Splits
from ._splits import ept_splits as ept_splits
from ._splits import few_shot as few_shot
from ._splits import grouped_splits as grouped_splits
from ._splits import own_splits as own_splits
from ._splits import refuse_split as refuse_split
from ._splits import rows_of as rows_of
from ._splits import split_rows as split_rows
from ._splits import strata as strata
from ._table import Rows as Rows
from ._tokenize import tokenize as tokenize
from ._unknown import unknown_id as unknown_id
from ._unknown import warn_of_unknown as warn_of_unknown
