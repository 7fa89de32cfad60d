"""Names of any origin in Markdown: of prompts, tasks and settings, which strangers may have chosen."""

from ..errors import visible


def in_markdown(name: object) -> str:
    """A name as Markdown shows it: in one line, without what begins code, a tag or the address of a link there."""
    return visible(str(name)).replace("`", "'").replace("<", "&lt;").replace("](", "]&#40;")
