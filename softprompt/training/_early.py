"""Checks that need no frozen model, and so are made before it is loaded, which may take minutes."""

from collections.abc import Sequence

from ..backbones import kind_of_spec, position_bound, refuse_no_room
from ..baselines import is_random
from ..checks import require_numbers
from ..data import Splits
from ..errors import BadInput
from ..inference.decoding import refuse_decoding
from ..prompts.methods import Method
from ..prompts.prompt import SoftPrompt
from ..settings import ModelSpec, PromptSettings, TrainSettings
from ..tasks import Task, gold
from ._built import alike
from ._loss_rule import refuse_loss
from ._prepare import step_count
from ._resolved import resolved
from ._restarts import race_steps
from .beginnings.cpt import refuse_cpt
from .beginnings.examples import allowed_rows
from .beginnings.vectors import at_source_length, read_source, refuse_layers, refuse_no_labels
from .beginnings.words import refuse_words


def check_request(
    task: Task,
    splits: Splits,
    prompts: Sequence[PromptSettings],
    settings: TrainSettings,
    model: ModelSpec | None = None,
) -> None:
    """Refuse what cannot be trained, as far as it can be told without the frozen model.

    Args:
        task: what is answered.
        splits: its rows.
        prompts: the prompts.
        settings: what they share.
        model: the model whose configuration says how long an input may be; None looks at none.

    Raises:
        SoftPromptError: methods, regularisers, units, learning rates, initial vectors, shots, warm-up, restarts,
            decoding or lengths that cannot work, or epochs of passes whose number is not known.
    """
    refuse_decoding(task, settings.decode)
    refuse_loss(settings, task)
    prompts = [resolved(prompt) for prompt in prompts]
    for prompt in prompts:
        require_numbers({"lr": prompt.lr, "head_lr": prompt.head_lr})
        _check_initial(prompt, task)
        method = Method.of(prompt)
        if method.takes_sources and not method.weights and prompt.init not in ("auto", "uniform"):
            raise BadInput(f"--source and --init={prompt.init} both say how {prompt.method!r} begins; leave one out")
        for source in prompt.sources:
            # Only whether one is there; its model is compared when that is loaded.
            SoftPrompt.load(source)
    steps = step_count(settings, max(_training_rows(task, splits, settings, prompt) for prompt in prompts))
    _refuse_long_warmup(settings.warmup, steps)
    for prompt in prompts:
        if prompt.restarts > 1:
            race_steps(prompt, steps)
            _refuse_alike_weights(prompt, model)
    bound = None if model is None else position_bound(model)
    if model is not None and bound is not None:
        longest = max(Method.of(at_source_length(prompt)).prompt_length for prompt in prompts)
        refuse_no_room(longest, bound - longest, bound, model.name)


def _refuse_alike_weights(prompt: PromptSettings, model: ModelSpec | None) -> None:
    """Refuse restarts of weights of which nothing is random, where no linear head stands behind them either."""
    method = Method.of(prompt)
    if model is None or not method.weights or is_random(method.weights, method.options):
        return
    if model.answers != "linear-head" and (model.answers != "auto" or kind_of_spec(model) != "encoder"):
        raise alike(prompt)


def _training_rows(task: Task, splits: Splits, settings: TrainSettings, prompt: PromptSettings) -> int:
    """How many rows a prompt trains on; the draw itself says whether there are enough."""
    if settings.shots is None and settings.shots_per_class is None:
        return len(splits.train)
    return len(allowed_rows(task, [gold(task, row) for row in splits.train], settings, prompt))


def _refuse_long_warmup(warmup: int | None, steps: int) -> None:
    """Refuse a warm-up after which the run is over: its learning rate would never be reached."""
    if warmup is not None and warmup > steps:
        raise BadInput(
            f"--warmup {warmup} is longer than the run of {steps} steps, which would never reach its learning rate; "
            "give fewer, or more --steps"
        )


def _check_initial(prompt: PromptSettings, task: Task) -> None:
    """Refuse initial vectors that are named wrongly or are not there."""
    refuse_cpt(prompt)
    initial = prompt.initial
    initial.refuse_unknown()
    if initial.is_words:
        refuse_words(prompt)
    elif initial.kind == "label-words":
        refuse_no_labels(task)
    elif initial.path is not None:
        refuse_layers(prompt, read_source(initial))
