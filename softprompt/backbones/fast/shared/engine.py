"""The shared passes of a decoder: whether they were chosen at loading, and whether they can run now."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch

from ....errors import UnsupportedModel
from ....prompts.batch import PromptBatch
from ....prompts.compiled import CompiledPrefix
from ..._products import chosen_library
from .choice import disagreement, unfit, unreadable
from .passes import SharedPasses

if TYPE_CHECKING:
    from ...base import AbstractBackbone

log = logging.getLogger("softprompt")
# Products go to oneDNN where torch's own take at least so many times its time: going there costs something, too.
GAIN = 1.1


@final
class SharedEngine:
    """The engine of one decoder, which holds the choice in `backbone.engine` and `backbone.products`.

    Args:
        backbone: the decoder.
        base: its layers below the head.
    """

    def __init__(self, backbone: "AbstractBackbone", base: Any):
        self.backbone, self.base = backbone, base
        self.passes = SharedPasses(backbone.model, base, backbone.embed, lambda: backbone.layers, backbone.name)
        self._told: set[str] = set()
        # Whether passes can read compiled prefixes; None before it was tried.
        self._reads_compiled: bool | None = None

    def choose(self, asked: str) -> None:
        """Set the backbone's engine to the one that is asked for, or that can be.

        Args:
            asked: "auto", "shared" or "reference".

        Raises:
            UnsupportedModel: "shared", and the model cannot have it.
        """
        if asked == "reference":
            return
        reason = unfit(self.backbone.model, self.base) or disagreement(self.backbone, self.passes, self._use)
        if reason is None:
            self._use(True)
            if (self.backbone.device.type, self.backbone.dtype) == ("cpu", torch.float32):
                self.backbone.products = chosen_library(GAIN)
        elif asked == "shared":
            raise UnsupportedModel(
                f"the passes of {self.backbone.name!r} cannot share a prompt: {reason}; leave --engine=shared out"
            )
        else:
            self._tell(reason)

    def now(self) -> SharedPasses | None:
        """Return the passes, or None where transformers runs them; if it should not, the reason is told once."""
        if self.backbone.engine == "reference":
            return None
        reason = unfit(self.backbone.model, self.base)
        if reason is not None:
            self._tell(reason)
            return None
        self.passes.products = self.backbone.products
        return self.passes

    def compiled(self, prompt_batch: PromptBatch, openings: Sequence[Sequence[int]]) -> list[CompiledPrefix] | None:
        """Return keys and values as `AbstractBackbone.compiled` does; whether the model allows it is tried once."""
        if (passes := self.now()) is None:
            return None
        if self._reads_compiled is None:
            reason = unreadable(self.backbone, passes)
            self._reads_compiled = reason is None
            if reason is not None:
                log.warning("%r: prompts are computed in each pass, not compiled: %s", self.backbone.name, reason)
        return passes.compiled(prompt_batch, openings) if self._reads_compiled else None

    def _use(self, on: bool) -> None:
        self.backbone.engine = "shared" if on else "reference"

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            log.warning("%r: passes by transformers, the prompt computed in each row: %s", self.backbone.name, reason)
