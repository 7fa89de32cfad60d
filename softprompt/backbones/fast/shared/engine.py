"""The passes over one sequence: whether they were chosen at loading, and whether they can run now."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, final

import torch

from ....errors import UnsupportedModel
from ....prompts.batch import PromptBatch
from ....prompts.compiled import CompiledPrefix
from ..._products import chosen_library
from .choice import disagreement, unfit, unreadable
from .passes import SharedPasses
from .rows import RowPasses
from .switch import chosen_by_user

if TYPE_CHECKING:
    from ...base import AbstractBackbone

log = logging.getLogger("softprompt")
# Products go to oneDNN where torch's own take at least so many times its time: going there costs something, too.
GAIN = 1.1
# What each engine cannot do for a model, and what is lost by it.
CANNOT = {"shared": "share a prompt", "packed": "be packed"}
LOST = {"shared": "the prompt computed in each row", "packed": "the rows padded"}


P = TypeVar("P", SharedPasses, RowPasses)


@final
class SequenceEngine(Generic[P]):
    """The engine of one decoder or encoder, which holds the choice in `backbone.engine` and `backbone.products`.

    Args:
        backbone: the model.
        name: "shared" for a decoder, "packed" for an encoder.
        passes: its passes over one sequence.
    """

    def __init__(self, backbone: "AbstractBackbone", name: Literal["shared", "packed"], passes: P):
        self.backbone, self.passes = backbone, passes
        self.name: Literal["shared", "packed"] = name
        self._told: set[str] = set()
        # Whether passes can read compiled prefixes; None before it was tried.
        self._reads_compiled: bool | None = None

    def choose(self, engine: str) -> None:
        """Set the backbone's engine to the one that is asked for, or that can be.

        Args:
            engine: "auto", the engine's name, or "reference".

        Raises:
            UnsupportedModel: the engine's name, and the model cannot have it.
        """
        if engine == "reference":
            return
        reason = self._unfit() or disagreement(self.backbone, self.passes.runner, self._use)
        if reason is None:
            self._use(True)
            self._tell_kept_attention()
            if (self.backbone.device.type, self.backbone.dtype) == ("cpu", torch.float32):
                self.backbone.products = chosen_library(GAIN)
        elif engine == self.name:
            raise UnsupportedModel(
                f"the passes of {self.backbone.name!r} cannot {CANNOT[self.name]}: {reason}; "
                f"leave --engine={self.name} out"
            )
        else:
            self._tell(reason)

    def now(self) -> P | None:
        """Return the passes, or None where transformers runs them; if it should not, the reason is told once."""
        if self.backbone.engine == "reference":
            return None
        reason = self._unfit()
        if reason is not None:
            self._tell(reason)
            return None
        self.passes.runner.products = self.backbone.products
        return self.passes

    def compiled(self, prompt_batch: PromptBatch, openings: Sequence[Sequence[int]]) -> list[CompiledPrefix] | None:
        """Return keys and values as `AbstractBackbone.compiled` does; whether the model allows it is tried once."""
        passes = self.now()
        if not isinstance(passes, SharedPasses):
            return None
        if self._reads_compiled is None:
            reason = unreadable(self.backbone, passes)
            self._reads_compiled = reason is None
            if reason is not None:
                log.warning("%r: prompts are computed in each pass, not compiled: %s", self.backbone.name, reason)
        return passes.compiled(prompt_batch, openings) if self._reads_compiled else None

    def _unfit(self) -> str | None:
        return unfit(self.backbone.model, self.passes.runner.base)

    def _use(self, on: bool) -> None:
        self.backbone.engine = self.name if on else "reference"

    def _tell_kept_attention(self) -> None:
        """Say that an attention which is not the common one stays for the user's own passes."""
        implementation = chosen_by_user(self.backbone.model.config)
        if implementation != "sdpa":
            log.info(
                "%r: its attention %r stays for generation and passes of yours; passes by the %s engine have their own",
                self.backbone.name, implementation, self.name,
            )  # fmt: skip

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            log.warning("%r: passes by transformers, %s: %s", self.backbone.name, LOST[self.name], reason)
