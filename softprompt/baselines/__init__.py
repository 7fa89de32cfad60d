"""What is trained in place of a soft prompt, to be compared with one: weights of the model, or weights beside them.

A baseline never changes the model that it was given. Its weights are copies, which take the places of the model's own
only inside a `with` block.
"""

from .kinds import BASELINES as BASELINES
from .kinds import answering as answering
from .kinds import check as check
from .kinds import count as count
from .lora import save_peft as save_peft
from .trainable import TrainableWeights as TrainableWeights
