"""Whether a task that a file holds can be a task: the kinds of its values, their ranges, and how much it asks for."""

from collections.abc import Mapping
from typing import Any

from ..documents import check_shape, refuse_more
from ..errors import BadInput

_TEXTS = ("template", "t5_template", "instruction", "cue", "name")
# Digits of a number that is written as an answer: more than a float has mean nothing.
MOST_DECIMALS = 17


def check_stored(kind: type, values: Mapping[str, Any], *, partial: bool = False) -> None:
    """Refuse what no task can hold.

    Args:
        kind: the class of tasks.
        values: as `Task.to_json` writes them.
        partial: whether fields may be absent and others be there, as in a prompt of another version.

    Raises:
        UnknownName: a field that does not exist.
        BadInput: a value of another kind or out of its range, or more than the limits allow.
    """
    check_shape(
        kind,
        values,
        partial=partial,
        is_open=partial,
        source=Mapping[str, Any],
        label_values=tuple[str | int | float | bool | None, ...],
    )
    refuse_more("labels", len(values.get("labels", ())), f"a stored task has {len(values.get('labels', ()))} labels")
    for name in _TEXTS:
        size = len(values.get(name) or "")
        refuse_more("template", size, f"{name!r} of a stored task has {size} characters")
    if partial:
        return
    if values.get("answer", "label") == "label" and not values.get("labels"):
        raise BadInput("a stored task is answered by a label and has none; fetch the file again")
    if not values.get("metrics", ("accuracy",)):
        raise BadInput("a stored task has no metric; fetch the file again")
    for name, least, most in (("decimals", 0, MOST_DECIMALS), ("stride", 0, 2**31), ("max_length", 1, 2**31)):
        number = values.get(name)
        if number is not None and not least <= number <= most:
            raise BadInput(f"{name!r} of a stored task must be {least} to {most}, not {number}")
