"""`softprompt bank`: a folder of prompts as one file, which a server reads at once."""

from pathlib import Path
from typing import Annotated

import typer

from ..checks import refuse_exists
from ..errors import BadInput


def bank(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of stored prompts, runs, or both.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write. It must not exist.")],
) -> None:
    """Pack all prompts of a folder into one file for `softprompt serve --prompts FILE`."""
    refuse_exists(output, "the bank")
    from ..serving import places_in, write_bank
    from ..store import read_prompt

    places, refused = places_in(folder)
    # A bank that lacks a prompt would be found out by its users.
    if refused:
        raise BadInput(f"{refused[0].name!r} in {str(folder)!r} cannot be packed: {refused[0].reason}")
    print(write_bank(output, ((name, read_prompt(place)) for name, place in places.items())))
