"""Compiled prompts: their keys and values, kept while they are asked for, so that a row costs no more than its text."""

import dataclasses
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import final

from ..backbones import AbstractBackbone
from ..prompts.batch import SPECIAL, TEMPLATE, PromptBatch
from ..prompts.compiled import CompiledPrefix
from .served import ServedPrompt
from .work import Work

# Memory of all keys and values that are kept, where nothing else is asked for.
PREFIX_BYTES = 256 * 2**20


@final
class PrefixStore:
    """The compiled prefixes of the prompts that were asked for last. Used by one thread at a time.

    A prompt under a name is never changed: what replaces it is another object. So an entry belongs to that object and
    goes with it, at the next pass after the last request that names it.

    Args:
        backbone: the frozen model.
        most_bytes: memory of all entries; 0 keeps none. A pass copies what it reads, one layer at a time.
    """

    def __init__(self, backbone: AbstractBackbone, most_bytes: int = PREFIX_BYTES):
        self.backbone, self.most_bytes = backbone, most_bytes
        self.nbytes = 0
        self._entries: OrderedDict[weakref.ref[ServedPrompt], CompiledPrefix] = OrderedDict()
        self._gone: list[weakref.ref[ServedPrompt]] = []
        self._position_bytes: int | None = None

    def __len__(self) -> int:
        """Number of prompts whose prefix is kept."""
        return len(self._entries)

    def known(self, works: Sequence[Work], prompts: Sequence[ServedPrompt], prompt_batch: PromptBatch) -> PromptBatch:
        """The prompts of a pass with all prefixes that fit into the memory; new ones are computed in one pass.

        Args:
            works: the rows of the pass.
            prompts: their prompts.
            prompt_batch: the same prompts.
        """
        self._forget()
        if not self.most_bytes:
            return prompt_batch
        keys = [weakref.ref(served) for served in prompts]
        for key in keys:
            if key in self._entries:
                self._entries.move_to_end(key)
        # Of several rows of a prompt the first one says what rows begin with; the others read as much of it as is so.
        openings = {work.served: opening_of(work) for work in reversed(works)}
        self._compile([served for served in prompts if weakref.ref(served) not in self._entries], keys, openings)
        compiled = tuple(map(self._entries.get, keys))
        return dataclasses.replace(prompt_batch, compiled=compiled) if any(compiled) else prompt_batch

    def _compile(
        self,
        missing: Sequence[ServedPrompt],
        keys: Sequence["weakref.ref[ServedPrompt]"],
        openings: Mapping[ServedPrompt, Sequence[int]],
    ) -> None:
        """Compute what is missing and fits beside what the pass reads; give up what was not read for long."""
        missing = [served for served in missing if served.prompt is not None]
        if missing and self._position_bytes is None:
            # One alone tells what a position takes.
            self._add(missing[:1], openings)
            missing = missing[1:]
        if not missing or not self._position_bytes:
            return
        needed = sum(entry.nbytes for key in keys if (entry := self._entries.get(key)) is not None)
        chosen = []
        for served in missing:
            size = self._position_bytes * (served.length + len(openings[served]))
            if needed + size <= self.most_bytes:
                needed += size
                chosen.append(served)
        if chosen:
            self._add(chosen, openings)

    def _add(self, prompts: Sequence[ServedPrompt], openings: Mapping[ServedPrompt, Sequence[int]]) -> None:
        prompt_batch = PromptBatch.stack(
            [served.vectors(self.backbone) for served in prompts],
            (),
            [served.deep(self.backbone) for served in prompts],
        )
        compiled = self.backbone.compiled(prompt_batch, [openings[served] for served in prompts])
        if compiled is None:
            self._position_bytes = 0
            return
        self._position_bytes = compiled[0].nbytes // max(compiled[0].length, 1)
        for served, prefix in zip(prompts, compiled, strict=True):
            self._entries[weakref.ref(served, self._gone.append)] = prefix
            self.nbytes += prefix.nbytes
        # What this pass reads stands last, and fits.
        while self.nbytes > self.most_bytes:
            self.nbytes -= self._entries.popitem(last=False)[1].nbytes

    def _forget(self) -> None:
        """Give up what belongs to prompts that nobody names any more."""
        while self._gone:
            if (entry := self._entries.pop(self._gone.pop(), None)) is not None:
                self.nbytes -= entry.nbytes


def opening_of(work: Work) -> tuple[int, ...]:
    """The token ids of a row before its first column: what opens a chat, the instruction, the template.

    One token is left, after which the answer is read.
    """
    if work.row.parts is None:
        return ()
    ids, parts = work.row.inputs.row(0).tolist(), work.row.parts.row(0).tolist()
    length = next((place for place, part in enumerate(parts) if part not in (TEMPLATE, SPECIAL)), len(parts))
    return tuple(ids[: min(length, len(ids) - 1)])
