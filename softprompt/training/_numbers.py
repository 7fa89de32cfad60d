"""Tasks that are answered with a number: what cannot be trained, and the scale that a head is trained on."""

from collections.abc import Sequence

from ..backbones import AbstractBackbone
from ..data import Examples, Ragged
from ..errors import BadInput
from ..prompts.standardization import Standardization
from ..tasks import TASKS, Task
from ._run_data import RunData


def refuse_shots(task: Task) -> None:
    """Refuse a draw of so many rows of each class where there are no classes; STS-B's are its halves.

    Raises:
        BadInput: free text, or numbers of one's own.
    """
    if task.answer == "text" or (task.answer == "number" and task.name not in TASKS):
        how = "free text" if task.answer == "text" else "a number"
        raise BadInput(
            f"--shots draws rows by class, task {task.name!r} is answered by {how}; give a file of fewer rows"
        )


def standardization(run_data: RunData, rows: Sequence[int]) -> Standardization | None:
    """The scale of these training rows' numbers, where a head answers with them; None elsewhere."""
    if run_data.backbone.answers != "linear-head" or run_data.task.answer != "number":
        return None
    return Standardization.of([right for row in rows if isinstance(right := run_data.train.gold[row], float)])


def refuse_unwritable(train: Examples, task: Task, backbone: AbstractBackbone, longest: int) -> None:
    """Refuse numbers that this model cannot write: they would be learnt, and answered, as something else.

    Args:
        train: rows with their written numbers; others have nothing to refuse.
        task: the task.
        backbone: its tokenizer may know no digits.
        longest: tokens of an answer.

    Raises:
        BadInput: unknown tokens, or more tokens than an answer has.
    """
    numbers = train.targets
    if task.answer != "number" or not isinstance(numbers, Ragged):
        return
    unknown = backbone.tokenizer.unk_token_id
    # GPT-2's unknown token is the one that ends an answer; its bytes know every text.
    if unknown not in (None, backbone.tokenizer.eos_token_id) and bool((numbers.flat == unknown).any()):
        raise BadInput(
            f"the tokenizer of {backbone.name!r} does not know the digits of the numbers of task {task.name!r}; "
            "choose another model, or an encoder, which answers them by a head"
        )
    if (needed := int(numbers.lengths.max())) > longest:
        raise BadInput(
            f"the numbers of task {task.name!r} have up to {needed} tokens, an answer {longest}, which would cut them; "
            f"give --max-new-tokens={needed}"
        )
