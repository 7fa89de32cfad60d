"""The memory budget: how many rows a pass may have.

The caches of a CPU and the free memory limit a pass, and the limit is halved when memory runs out. Gradients add up and
each row is answered independently, so the split of rows into passes changes no result.
"""

from ._budget import MemoryBudget as MemoryBudget
from ._memory import bytes_per_token as bytes_per_token
from ._memory import free_memory as free_memory
from ._memory import is_out_of_memory as is_out_of_memory
