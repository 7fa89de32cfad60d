"""Templates: text with {column} fields, and {mask} where a masked-LM head answers."""

import functools
from string import Formatter

from ..errors import BadInput

# The field of a template that is no column: where a masked-LM head answers.
MASK = "mask"


@functools.lru_cache(maxsize=64)
def pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    """A template as literal texts, each with the field after it, or None at the end.

    Raises:
        BadInput: a brace that is no field's, a format after a field, or {mask} more than once.
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise BadInput(f"template {template!r}: {error}; write columns as {{column}}, braces doubled") from error
    for _, name, spec, conversion in parsed:
        if spec or conversion:
            raise BadInput(
                f"template {template!r}: a format after {{{name}}} means nothing here; write {{{name}}} alone"
            )
    if sum(name == MASK for _, name, _, _ in parsed) > 1:
        raise BadInput(f"template {template!r} holds {{mask}} more than once; an answer is given at one")
    return tuple((literal, name) for literal, name, _, _ in parsed)


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that a template reads, in its order."""
    return tuple(dict.fromkeys(name for _, name in pieces(template) if name not in (None, MASK)))


def template_shown(template: str) -> tuple[str, ...]:
    """The parts of a template around its {mask}, as a row shows them: doubled braces single, and columns in braces."""
    parts = [""]
    for literal, name in pieces(template):
        parts[-1] += literal
        if name == MASK:
            parts.append("")
        elif name is not None:
            parts[-1] += f"{{{name}}}"
    return tuple(parts)


def template_tail(template: str) -> str:
    """The text after the last field of a template."""
    found = pieces(template)
    return found[-1][0] if found and found[-1][1] is None else ""
