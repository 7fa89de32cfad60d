"""The prompts of a server by name. Readers never wait: a change replaces the whole table."""

import logging
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from ..errors import BadInput, SoftPromptError, UnknownName
from ..prompts.prompt import SoftPrompt
from .served import Admission, ServedPrompt

log = logging.getLogger("softprompt.serving")
# A name stands in addresses and after the model's name, so it has neither slashes nor colons.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@final
@dataclass(frozen=True)
class Refusal:
    """A prompt that is not served, and why."""

    name: str
    reason: str


def refuse_name(name: str) -> None:
    """Refuse a name that cannot stand in an address.

    Raises:
        BadInput: with what a name is made of.
    """
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no name of a prompt: letters, digits, '.', '_' and '-', at most 128 of them")


@final
class PromptBank:
    """The prompts that are served.

    Args:
        admission: checks each prompt against the model.
    """

    def __init__(self, admission: Admission):
        self.admission = admission
        self._prompts: Mapping[str, ServedPrompt] = {}
        self._changing = threading.Lock()

    @property
    def prompts(self) -> Mapping[str, ServedPrompt]:
        """The prompts as they are now; later changes do not show in what was returned."""
        return MappingProxyType(self._prompts)

    def get(self, name: str) -> ServedPrompt:
        """The prompt of this name.

        Raises:
            UnknownName: with the nearest name.
        """
        if (served := self._prompts.get(name)) is None:
            raise UnknownName("prompt", name, self._prompts) if self._prompts else BadInput("no prompt is served yet")
        return served

    def put(self, prompts: Iterable[tuple[str, SoftPrompt]]) -> list[Refusal]:
        """Add or replace prompts, all at once; returns those that were refused, which change nothing.

        A request that was taken before is answered by the prompt that it was taken for.
        """
        admitted, refused = {}, []
        for name, prompt in prompts:
            try:
                refuse_name(name)
                admitted[name] = self.admission.admit(name, prompt)
            except SoftPromptError as error:
                refused.append(Refusal(name, error.message))
            # The document of a stranger may hold anything in the places of a task.
            except Exception as error:
                refused.append(Refusal(name, f"its task or its scoring cannot be read ({type(error).__name__})"))
        with self._changing:
            self._prompts = {**self._prompts, **admitted}
        return refused

    def tell_refused(self, refusal: Refusal) -> None:
        """Log that a prompt is not served, or that its earlier version still is."""
        if refusal.name in self.prompts:
            told = "the new version of prompt %r is refused, and the earlier one is still served: %s"
        else:
            told = "prompt %r is not served: %s"
        log.warning(told, refusal.name, refusal.reason)

    def remove(self, names: Iterable[str]) -> None:
        """Serve these prompts no longer; a name that is not served is ignored."""
        gone = set(names)
        with self._changing:
            self._prompts = {name: served for name, served in self._prompts.items() if name not in gone}
