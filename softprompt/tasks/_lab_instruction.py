"""How a lab task is asked in words: the instruction that the built-in backbones were taught in pretraining."""

from ..world import ATTRIBUTES
from ..world.questions import FRAMES
from ._base import Task

# Pretraining lists no more values in one question.
MOST_LISTED = 4


def lab_instruction(task: Task) -> str | None:
    """The words before a row that ask a built-in backbone for this task, as in "what color :".

    None for a task that is not of the lab, and for one that pretraining never asked for: more than two new label
    words, more than four values in a category.
    """
    options = task.source.options
    match task.source.world:
        case "attribute":
            return _attribute(task, options["attribute"])
        case "membership" if len(options["members"]) <= MOST_LISTED:
            return f"is it {' or '.join(options['members'])} :"
        case "several":
            return FRAMES[0].format(" and ".join(options["attributes"]))
        case "entailment":
            return "does it follow :"
        case "same":
            return f"same {options['attribute']} :"
    return None


def _attribute(task: Task, attribute: str) -> str | None:
    if task.labels == ATTRIBUTES[attribute]:
        return FRAMES[0].format(attribute)
    if len(task.labels) != 2:
        return None
    (first, second), (value, _) = task.labels, task.label_values
    return f"say {first} if {value} else {second} :"
