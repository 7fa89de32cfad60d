"""FewGLUE (Schick and Schütze, 2021, arXiv:2009.07118): 32 training rows of each of seven SuperGLUE tasks.

Validation rows are the 32 that P-tuning added (THUDM/P-tuning, FewGLUE_32dev). Test rows are SuperGLUE's validation
rows, as in both papers. MultiRC has 154 and 167 rows because its 32 questions have several answers each.
"""

import dataclasses

from ._base import Task
from ._source import Source
from ._superglue import BOOLQ, CB, COPA, MULTIRC, SUPER_RTE, WIC, WSC_PLAIN


def _few(task: Task) -> Task:
    name = task.name.removeprefix("super_glue/")
    source = Source(folder=f"fewglue/{name}", validation="dev32", test=f"../../super_glue/{name}/validation")
    return dataclasses.replace(task, name=f"fewglue/{name}", source=source)


FEW_GLUE = tuple(map(_few, (BOOLQ, CB, COPA, MULTIRC, SUPER_RTE, WIC, WSC_PLAIN)))
