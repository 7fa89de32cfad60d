"""Studies: a list of runs in one folder. Each is trained once; a study may be killed and shared at any time.

    specs = grid(task=["glue/sst2", "glue/rte"], model="t5-small", method=["residual", "ept-star"], seed=range(5))
    runs = run_all(specs, "studies/first")  # again: only what is missing
    print(markdown(summary(runs, by=("method",))))
    print(markdown(compare(runs, by="method", baseline="ept-star")))

Nothing heavy is imported before a run is named or trained.
"""

from ..errors import RunsFailed as RunsFailed
from ._analyzed import is_store as is_store
from ._analyzed import kept_prompts as kept_prompts
from ._analyzed import recorded as recorded
from ._asked import task_and_style as task_and_style
from ._chosen import chosen as chosen
from ._chosen import other_keys as other_keys
from ._chosen import with_chosen as with_chosen
from ._early import missing as missing
from ._early import under_other_names as under_other_names
from ._export import TABLE_FORMATS as TABLE_FORMATS
from ._export import best as best
from ._export import export as export
from ._export import rows_of as rows_of
from ._file import AS_WRITTEN as AS_WRITTEN
from ._file import load_specs as load_specs
from ._fleets import is_kept as is_kept
from ._grid import grid as grid
from ._inputs import mixed as mixed
from ._inputs import other_contents as other_contents
from ._plan import Part as Part
from ._plan import plan as plan
from ._reference import other_settings as other_settings
from ._reference import published as published
from ._reference import with_reference as with_reference
from ._reference import without_number as without_number
from ._run import kept_prompt as kept_prompt
from ._run import read as read
from ._run import run_all as run_all
from ._spec import RunSpec as RunSpec
from ._spec import model_fields as model_fields
from ._status import Status as Status
from ._status import status as status
from ._stored import StoredRun as StoredRun
from ._stored import curves as curves
from ._stored import damaged_runs as damaged_runs
from ._stored import load as load
from ._stored import stored_names as stored_names
from .tables import columns as columns
from .tables import compare as compare
from .tables import markdown as markdown
from .tables import summary as summary
