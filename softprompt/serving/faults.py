"""What a server answers when it cannot answer: each is one line, as all errors of softprompt."""

from ..errors import BadInput, SoftPromptError


class Overloaded(SoftPromptError):
    """More is waiting than the server holds.

    Args:
        waiting: tokens, or texts that are not tokenised yet, that wait.
        most: as many as may wait.
        retry_after: seconds after which there is probably room.
        unit: what is counted, "tokens" or "texts".
    """

    def __init__(self, waiting: int, most: int, retry_after: int, unit: str = "tokens"):
        super().__init__(
            f"the server is busy: {waiting} {unit} wait and {most} may; try again in {retry_after} seconds"
        )
        self.retry_after = retry_after


class TooLate(SoftPromptError):
    """A request whose time was over before it was answered."""


class Draining(SoftPromptError):
    """The server ends: it answers what it has taken, and takes nothing more."""


class TooLong(BadInput):
    """A text of more tokens than the model reads beside the prompt, or a request of more than the server takes."""
