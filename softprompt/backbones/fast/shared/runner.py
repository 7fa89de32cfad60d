"""The layers of transformers over one sequence, in which a layout says where each position belongs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ....prompts.batch import PromptBatch, TextBatch
from ..._products import Library
from ...deep import Fresh, entering
from .attention import KeysFound, Seen, Unfit, register
from .layout import Layout
from .switch import current_layout, laid_out, switched

# The last layer is called at the queries alone where they are at most this share of all positions. Its queries, keys
# and values are computed twice then, a quarter of its operations.
WORTHWHILE = 0.7


@final
@dataclass(frozen=True, eq=False)
class ModelParts:
    """What passes over one sequence need of a model.

    Args:
        model: a model of transformers.
        base: its layers below the head.
        embed: the vectors of token ids, as the model reads them.
        layers: the layers that a deep prompt enters; called only where there is one.
        name: name of the model, for messages.
    """

    model: Any
    base: Any
    embed: Callable[[Tensor], Tensor]
    layers: Callable[[], Sequence[nn.Module]]
    name: str


@final
class Runner:
    """The layers of one model.

    Args:
        parts: of the model.
        options: what else the model is called with, given the prompts and the vectors of the sequence.
    """

    def __init__(self, parts: ModelParts, options: Callable[[PromptBatch, Layout, Tensor], dict[str, Any]]):
        self.model, self.base, self.embed = parts.model, parts.base, parts.embed
        self.layers, self.name, self.options = parts.layers, parts.name, options
        configs = [module.config for module in self.model.modules() if hasattr(module, "config")]
        self.configs = list({id(config): config for config in configs}.values())
        # What multiplies by frozen matrices in float32 on a CPU; None leaves it to torch.
        self.products: Library | None = None
        # Whether the last layer can be called with the asked positions only; the probe finds out.
        self.ends_early = True

    def logits(self, prompt_batch: PromptBatch, batch: TextBatch, layout: Layout) -> Float[Tensor, "q v"]:
        """Return the logits of the queries."""
        inputs = self._inputs(prompt_batch, batch, layout)
        with self._running(prompt_batch, batch, layout), self._at_queries(layout):
            return self.model(**inputs).logits[0]

    def states(self, prompt_batch: PromptBatch, batch: TextBatch, layout: Layout, **more: Any) -> Float[Tensor, "r d"]:
        """Return the last states of all positions; `more` is what the layers are called with beside the rest."""
        inputs = self._inputs(prompt_batch, batch, layout) | more
        with self._running(prompt_batch, batch, layout):
            return self.base(**inputs).last_hidden_state[0]

    def asked_states(self, prompt_batch: PromptBatch, batch: TextBatch, layout: Layout) -> Float[Tensor, "q d"]:
        """Return the last states of the queries."""
        with self._at_queries(layout):
            return self.states(prompt_batch, batch, layout)

    def _inputs(self, prompt_batch: PromptBatch, batch: TextBatch, layout: Layout) -> dict[str, Any]:
        """Return what the model is called with."""
        x = self.embed(layout.tokens)
        if batch.text_delta is not None:
            places, rows, columns = layout.texts
            x = x.index_put((places,), x[places] + batch.text_delta[rows, columns].to(x.dtype))
        places, sources, columns = layout.prompts
        prompt = prompt_batch.vectors[_prompts_at(layout, batch), columns]
        if batch.prompt_delta is not None:
            prompt = prompt + batch.prompt_delta[sources, columns]
        x = x.index_put((places,), prompt.to(x.dtype))
        return {
            "inputs_embeds": x[None],
            "attention_mask": torch.ones_like(layout.tokens)[None],
            **self.options(prompt_batch, layout, x),
        }

    @contextmanager
    def _running(self, prompt_batch: PromptBatch, batch: TextBatch, layout: Layout) -> Iterator[None]:
        fresh = _fresh(prompt_batch, batch, layout)
        layers = () if fresh is None else self.layers()
        register()
        with switched(self.configs, self.products), laid_out(layout), entering(layers, fresh, self.name):
            yield

    @contextmanager
    def _at_queries(self, layout: Layout) -> Iterator[None]:
        """Within, the head reads the states of the queries only, and so does the last layer where it can."""

        def keep(module: nn.Module, arguments: Any, output: Any) -> Any:
            if current_layout() is layout and output.last_hidden_state.shape[1] == len(layout.tokens):
                output.last_hidden_state = output.last_hidden_state[:, layout.queries]
            return output

        pays = self.ends_early and len(layout.queries) <= WORTHWHILE * len(layout.tokens)
        last = last_layer(self.base) if pays else None
        with ExitStack() as stack:
            # Between layers and head, for heads scale and cap their logits in ways of their own.
            stack.enter_context(self.base.register_forward_hook(keep))
            # A layer that is recomputed keeps the forward pass that recomputes it.
            if last is not None and "forward" not in last.__dict__:
                last.__dict__["forward"] = partial(_ended_early, last.forward, layout)
                stack.callback(last.__dict__.pop, "forward")
            yield


def last_layer(base: Any) -> nn.Module | None:
    """The last layer of a stack: of the first list of as many modules as its configuration says."""
    depth = getattr(base.config.get_text_config(), "num_hidden_layers", None)
    lists = (module for module in base.modules() if isinstance(module, nn.ModuleList))
    return next((layers[-1] for layers in lists if len(layers) == depth), None)


def _ended_early(forward: Callable[..., Any], layout: Layout, *arguments: Any, **options: Any) -> Any:
    """The output of a layer at the queries alone.

    The layer is called twice: up to its attention, for the keys and values of all positions, and then with the states
    of the queries, which attend to them. So everything after the attention is computed for the queries only.
    """
    given: list[Seen] = []

    def first(value: Any) -> Any:
        if isinstance(value, Seen) and value.layout is layout:
            given.append(value)
            return value.finding_keys()
        return value

    only_keys = _changed(arguments, first), _changed(options, first)
    if not given:
        # A pass of the user's in another thread.
        return forward(*arguments, **options)
    try:
        forward(*only_keys[0], **only_keys[1])
    except KeysFound as keys:
        seen = given[0].asked(keys.key, keys.value)
    else:
        raise Unfit("its last layer does not call the attention that transformers offers")
    r = len(layout.tokens)

    def second(value: Any) -> Any:
        if isinstance(value, Seen):
            return seen
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[:2] == (1, r):
            return value[:, layout.queries]
        return value

    return forward(*_changed(arguments, second), **_changed(options, second))


def _changed(values: Any, change: Callable[[Any], Any]) -> Any:
    """Return arguments of a call with each value changed, those within tuples and dictionaries too."""
    if isinstance(values, tuple | list):
        return type(values)(_changed(value, change) for value in values)
    if isinstance(values, dict):
        return {name: _changed(value, change) for name, value in values.items()}
    return change(values)


def _prompts_at(layout: Layout, batch: TextBatch) -> Int[Tensor, " k"]:
    """Which prompt the vectors at `layout.prompts` are of."""
    sources = layout.prompts[1]
    return batch.owner[sources] if layout.has_copies else sources


def _fresh(prompt_batch: PromptBatch, batch: TextBatch, layout: Layout) -> Fresh | None:
    """What the layers after the first read at the places of deep prompts, for one row that holds them all."""
    if prompt_batch.deep is None or prompt_batch.is_deep is None:
        return None
    p, k, n, d = prompt_batch.deep.shape
    places, _, columns = layout.prompts
    prompts = _prompts_at(layout, batch)
    deep = prompt_batch.is_deep[prompts]
    taken = torch.full_like(layout.tokens, -1)
    taken[places[deep]] = (prompts * n + columns)[deep]
    vectors = prompt_batch.deep.transpose(0, 1).reshape(1, k, p * n, d)
    return Fresh(vectors, layout.tokens.new_zeros(1), taken[None])
