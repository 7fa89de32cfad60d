"""What a prompt begins with, as the text of `PromptSettings.init` says it: the only place that reads this text."""

from dataclasses import dataclass
from typing import final

from .errors import BadInput, UnknownName

INITIALIZERS = (
    "auto", "uniform", "vocabulary", "label-words", "text:WORDS", "file:PATH", "prompt:PATH", "instruction",
    "examples:K",
)  # fmt: skip
# The kinds that have something after a colon, and those that are words in front of the text.
_WITH_ARGUMENT = tuple(name.partition(":")[0] for name in INITIALIZERS if ":" in name)
_WORDS = ("instruction", "examples")


@final
@dataclass(frozen=True)
class Initial:
    """An `init`, as "uniform" or "examples:4". It is as it was given until `refuse_unknown` has accepted it.

    Args:
        text: one of INITIALIZERS, with what it begins with after the colon.
    """

    text: str

    @property
    def kind(self) -> str:
        """What stands before the colon."""
        return self.text.partition(":")[0]

    @property
    def argument(self) -> str:
        """What stands after the colon; empty for nothing."""
        return self.text.partition(":")[2]

    @property
    def is_words(self) -> bool:
        """Whether the prompt begins as words in front of the text."""
        return self.kind in _WORDS

    @property
    def path(self) -> str | None:
        """The file or stored prompt that holds the vectors; None for another beginning."""
        return self.argument if self.kind in ("file", "prompt") and self.argument else None

    def example_count(self) -> int:
        """K of "examples:K".

        Raises:
            BadInput: it is no whole number of at least 1.
        """
        given = self.argument
        if not given.isascii() or not given.isdigit() or int(given) < 1:
            raise BadInput(f"--init={self.text}: give the number of examples, at least 1, as in --init=examples:4")
        return int(given)

    def with_path(self, path: str) -> "Initial":
        """The same kind of file at another path."""
        return Initial(f"{self.kind}:{path}")

    def refuse_unknown(self) -> None:
        """Refuse a text that says nothing a prompt can begin with.

        Raises:
            UnknownName: no such kind, or nothing after its colon.
            BadInput: no number of examples, or the words of an instruction.
        """
        if self.kind == "instruction" and self.text != self.kind:
            raise BadInput(f"--init={self.text}: give the words by --instruction, and --init=instruction alone")
        if self.kind == "examples":
            self.example_count()
        elif self.text not in INITIALIZERS and not (self.kind in _WITH_ARGUMENT and self.argument):
            raise UnknownName("initialiser", self.text, INITIALIZERS)
