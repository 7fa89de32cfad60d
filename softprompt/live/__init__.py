"""Runs and studies while they are trained: read from their folders alone, shown in the terminal and in a local page.

Nothing here imports torch, so a look at a run starts at once and takes no memory from training.
"""

from ._terminal import follow as follow
from ._terminal import frame as frame
from ._views import PromptView as PromptView
from ._views import RunView as RunView
from ._views import look as look
from ._views import sparkline as sparkline
