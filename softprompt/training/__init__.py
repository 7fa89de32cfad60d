"""Training: one loop for a fleet of prompts, exact resume, deterministic records."""

from ._advice import ADVICE as ADVICE
from ._advice import without_advice as without_advice
from ._callbacks import EarlyStopping as EarlyStopping
from ._callbacks import Evaluation as Evaluation
from ._callbacks import Step as Step
from ._drive import Interrupted as Interrupted
from ._drive import fast_denormals as fast_denormals
from ._early import check_request as check_request
from ._folder import is_held as is_held
from ._folder import refuse_used as refuse_used
from ._frozen import Comparison as Comparison
from ._frozen import read_comparison as read_comparison
from ._loss_rule import trained_loss as trained_loss
from ._plan import Plan as Plan
from ._plan import Result as Result
from ._plan import Run as Run
from ._plan import read_plan as read_plan
from ._progress import interruptible as interruptible
from ._records import checked_record as checked_record
from ._records import read_record as read_record
from ._results import read_result as read_result
from ._results import read_results as read_results
from ._train import resume as resume
from ._train import train as train
