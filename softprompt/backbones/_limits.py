"""How many positions a model has for prompt and text, as far as its configuration says, and whether they suffice."""

from ..errors import BadInput
from ..settings import ModelSpec
from ._names import source_of
from ._read import read_configuration
from .family import KINDS, RELATIVE

# Fewer text positions than this left beside the prompt is a mistake, not a setting.
FEWEST_TEXT_POSITIONS = 8


def position_bound(spec: ModelSpec) -> int | None:
    """Most positions that an input may have; None where the configuration bounds none, or the family is not known.

    The model may bound it further: a family may begin to count at 2, and an answer takes positions too.

    Args:
        spec: the model.

    Raises:
        BadInput: no such folder or hub id.
        UnsupportedModel: transformers knows no such family.
    """
    config = read_configuration(source_of(spec.name), spec.revision)
    if config.model_type not in KINDS or config.model_type in RELATIVE:
        return None
    return getattr(config, "max_position_embeddings", None)


def refuse_no_room(prompt_length: int, room: int, positions: int, name: str, label: int = 0) -> None:
    """Refuse a prompt, or a longest label, beside which hardly any text fits.

    Args:
        prompt_length: its positions.
        room: positions left for text.
        positions: all that the model has.
        name: of the model.
        label: positions that the longest label takes of them.

    Raises:
        BadInput: with what to do.
    """
    if room < FEWEST_TEXT_POSITIONS <= room + label:
        raise BadInput(
            f"a prompt of {prompt_length} positions and the longest label, of {label}, leave {max(0, room)} for text: "
            f"{name!r} has {positions}; choose shorter --label-words"
        )
    if room < FEWEST_TEXT_POSITIONS:
        raise BadInput(
            f"a prompt of {prompt_length} positions leaves {max(0, room)} for text: {name!r} has {positions}; "
            "choose a shorter --prompt-length"
        )
