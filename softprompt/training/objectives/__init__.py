"""What is minimised: the task loss of the rows, and around it the regularisers."""

from ._context import RegularizerContext as RegularizerContext
from ._context import has_dropout as has_dropout
from ._label_loss import BothLoss as BothLoss
from ._label_loss import LabelLoss as LabelLoss
from ._label_loss import Weighted as Weighted
from ._objective import Objective as Objective
from ._objective import Plain as Plain
from ._passes import Passes as Passes
from ._regularized import Regularized as Regularized
from ._shown_labels import ShownLabels as ShownLabels
from ._shown_labels import WithShownLabels as WithShownLabels
from ._task_loss import TaskLoss as TaskLoss
from ._task_loss import TokenLoss as TokenLoss
from ._terms import Group as Group
from ._terms import Term as Term
from ._terms import acting as acting
