"""The declared tasks by name, and the groups that they belong to."""

from ._base import Task
from ._fewglue import FEW_GLUE
from ._glue import GLUE
from ._lab import LAB
from ._mrqa import MRQA
from ._others import OTHERS
from ._superglue import SUPER_GLUE

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, *SUPER_GLUE, *MRQA, *OTHERS, *FEW_GLUE, *LAB)}

GROUPS: dict[str, tuple[str, ...]] = {
    "glue": tuple(task.name for task in GLUE),
    "super_glue": tuple(task.name for task in SUPER_GLUE),
    "mrqa": tuple(task.name for task in MRQA),
    "others": tuple(task.name for task in OTHERS),
    "fewglue": tuple(task.name for task in FEW_GLUE),
    "lab": tuple(task.name for task in LAB),
}
