"""How many rows a pass may have: as many as the caches are good for, as the memory holds, and fewer after it ran out.

Gradients add up and rows are answered one by one, so how rows are split into passes changes no result.
"""

from ._memory import bytes_per_token as bytes_per_token
from ._memory import free_memory as free_memory
from ._memory import is_out_of_memory as is_out_of_memory
from ._room import MemoryBudget as MemoryBudget
