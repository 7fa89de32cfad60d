"""An instruct model's chat template: what it puts around a user's text."""

from typing import Any

from ..errors import UnsupportedModel


def user_turn(tokenizer: Any, name: str) -> tuple[str, str]:
    """What the chat template puts before and after a user's text, up to where the answer begins.

    Args:
        tokenizer: of an instruct model.
        name: of the model, for messages.

    Raises:
        UnsupportedModel: no chat template, or one that cannot be filled in or does not show the text once.
    """
    text = "THE-TEXT-OF-THE-USER"
    if tokenizer.chat_template is None:
        raise UnsupportedModel(f"the tokenizer of {name!r} has no chat template; leave --answers=chat out")
    turn = [{"role": "user", "content": text}]
    try:
        whole: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    # Whatever a template is written to raise, or calls wrongly.
    except Exception as error:
        raise UnsupportedModel(
            f"the chat template of {name!r} cannot be filled in with one user's text "
            f"({type(error).__name__}: {' '.join(str(error).split())}); leave --answers=chat out"
        ) from error
    parts = whole.split(text)
    if len(parts) != 2:
        raise UnsupportedModel(
            f"the chat template of {name!r} shows the text {len(parts) - 1} times, not once; leave --answers=chat out"
        )
    return parts[0], parts[1]


def next_turn(tokenizer: Any) -> str | None:
    """What the chat template puts between an answer and the next text of the user; None if it takes one text only."""
    texts = ("THE-TEXT-OF-THE-USER", "THE-ANSWER", "THE-NEXT-TEXT-OF-THE-USER")
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), texts, strict=True)]
    try:
        whole: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # Whatever a template for one text is written to raise.
    except Exception:
        return None
    _, answered, rest = whole.partition(texts[1])
    return rest.partition(texts[2])[0] if answered and texts[2] in rest else None
