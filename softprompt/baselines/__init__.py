"""What is trained in place of a soft prompt, to be compared with one.

These are weights of the model, weights beside them, keys and values, and prompts that depend on the row. A baseline
never changes the model that it was given: what it trains stands in the model, or beside it, only inside a `with` block.
"""

from .kinds import BASELINES as BASELINES
from .kinds import answering as answering
from .kinds import check as check
from .kinds import count as count
from .kinds import is_random as is_random
from .peft_folder import READ_FROM_PEFT as READ_FROM_PEFT
from .peft_folder import WRITTEN_FOR_PEFT as WRITTEN_FOR_PEFT
from .peft_folder import load_peft as load_peft
from .peft_folder import provenance_of as provenance_of
from .peft_folder import save_peft as save_peft
from .peft_layers import has_peft as has_peft
from .shared import Shared as Shared
from .trainable import TrainableWeights as TrainableWeights
