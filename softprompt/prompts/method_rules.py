"""Which settings of a prompt a method refuses: those that mean nothing to it, and would be ignored."""

from ..checks import option
from ..errors import BadInput
from ..settings import PromptSettings


def refuse_settings_of_prompts(settings: PromptSettings, units: str) -> None:
    """Refuse, for a method that trains weights, what is set of a prompt.

    Args:
        settings: of the method.
        units: the method's own.

    Raises:
        BadInput: names the setting.
    """
    default = PromptSettings()
    for name in ("init", "units", "max_norm", "max_shift", "context_loss", "deep"):
        # "raw" and "uniform" are what "auto" stands for. Weights that stand beside words have units, too.
        allowed = (getattr(default, name), "raw", "uniform", *(["rms"] if name == "units" and units == "rms" else []))
        if getattr(settings, name) not in allowed:
            raise BadInput(
                f"{settings.method!r} trains weights, and {option(name)} is for prompts; leave one of them out"
            )


def refuse_settings_of_vectors(settings: PromptSettings) -> None:
    """Refuse, for a linear head alone, a bound of vectors and deep ones.

    Raises:
        BadInput: names the setting.
    """
    if settings.max_norm is not None:
        raise BadInput(f"{settings.method!r} has no prompt for --max-norm to bound; leave one of them out")
    if settings.deep:
        raise BadInput(f"{settings.method!r} has no prompt to enter every layer; leave --deep out")


def refuse_raw_units(settings: PromptSettings) -> None:
    """Refuse raw units for a method that trains directions.

    Raises:
        BadInput: the units are raw.
    """
    if settings.units == "raw":
        raise BadInput(
            f"{settings.method!r} gives its norm in token norms and has no raw units; leave --units out, or give rms"
        )


def refuse_sources(settings: PromptSettings, least: int | None) -> None:
    """Refuse fewer source prompts than a method begins from, or any where it begins from none.

    Args:
        settings: of the method.
        least: the fewest that it begins from; None for a method that begins from none.

    Raises:
        BadInput: says how many are needed.
    """
    given = len(settings.sources)
    if least is not None and given < least:
        raise BadInput(
            f"{settings.method!r} begins from {least} or more prompts of other tasks, and "
            f"{f'{given} is' if given else 'none is'} given; give --source PROMPT for each"
        )
    if given and least is None:
        raise BadInput(f"{settings.method!r} begins from no source prompt; leave --source out, or choose 'spot'")
