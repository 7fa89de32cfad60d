"""The passes of a decoder with shared prefixes: logits at the asked positions, scores of labels, states of the text."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ....prompts.batch import PromptBatch, TextBatch
from ....prompts.compiled import CompiledPrefix
from ..._labels import Reading, rows_of
from ..._products import Library
from ...deep import Fresh, entering
from ...prefix import read_cache
from .attention import KeysFound, Seen, Unfit, register
from .compiled import at_places, held_cache, places_of, rows_of_tokens
from .layout import Layout, answers_each, lay_out, no_answers
from .switch import current_layout, laid_out, switched

IGNORED = -100


@final
class SharedPasses:
    """The passes of one decoder.

    Args:
        model: a causal model of transformers.
        base: its layers below the head.
        embed: the vectors of token ids, as the model reads them.
        layers: the layers that a deep prompt enters; called only where there is one.
        name: name of the model, for messages.
    """

    def __init__(
        self,
        model: Any,
        base: Any,
        embed: Callable[[Tensor], Tensor],
        layers: Callable[[], Sequence[nn.Module]],
        name: str,
    ):
        self.model, self.base, self.embed, self.layers, self.name = model, base, embed, layers, name
        configs = [module.config for module in model.modules() if hasattr(module, "config")]
        self.configs = list({id(config): config for config in configs}.values())
        # What multiplies by frozen matrices in float32 on a CPU; None leaves it to torch.
        self.products: Library | None = None
        # Whether the last layer can be called with the asked positions only; the probe finds out.
        self.ends_early = True

    def logits(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b l v"]:
        """Return the logits at the label positions, and zeros at padded ones."""
        assert batch.targets is not None
        targets = batch.targets.long()
        needed = targets != IGNORED
        # A token is read only if a label follows it.
        read = targets[:, :-1].masked_fill(~needed[:, 1:], IGNORED)
        layout = self._layout(prompt_batch, batch, read[:, None])
        flat = self._asked(prompt_batch, batch, layout)
        b, length = targets.shape
        if len(flat) == b * length:
            return flat.view(b, length, -1)
        rows, columns = needed.nonzero(as_tuple=True)
        empty = flat.new_zeros(b, length, flat.shape[1])
        return empty.index_put((rows, columns), flat[layout.firsts[rows] + columns])

    def label_scores(
        self, prompt_batch: PromptBatch, batch: TextBatch, labels: Sequence[Sequence[int]], normalize: str
    ) -> Float[Tensor, "b c"]:
        """Return the log-probability of each label; all labels are read behind the same text."""
        reading = Reading.of(labels, normalize)
        return self.label_scores_each(prompt_batch, batch, [reading], torch.zeros_like(batch.owner))[0]

    def label_scores_each(
        self, prompt_batch: PromptBatch, batch: TextBatch, readings: Sequence[Reading], which: Int[Tensor, " b"]
    ) -> list[Float[Tensor, "r c"]]:
        """Return for each reading the log-probabilities of its labels for its rows; one pass reads all of them."""
        read = [[label[:-1] for label in reading.scored] for reading in readings]
        layout = self._layout(prompt_batch, batch, answers_each(read, which))
        flat = self._asked(prompt_batch, batch, layout)
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
        totals = wide.logsumexp(-1)
        return [
            self._scores(reading, wide, totals, layout.firsts[rows])
            for reading, rows in zip(readings, rows_of(which, len(readings)), strict=True)
        ]

    @staticmethod
    def _scores(
        reading: Reading, logits: Float[Tensor, "q v"], totals: Float[Tensor, " q"], firsts: Int[Tensor, " r"]
    ) -> Float[Tensor, "r c"]:
        """Return the label scores of rows whose first queries these are."""
        scores, behind = [], 1
        for label in reading.scored:
            steps = torch.tensor([0, *range(behind, behind + len(label) - 1)], device=firsts.device)
            behind += len(label) - 1
            places = firsts[:, None] + steps
            tokens = torch.tensor(label, device=firsts.device)
            scores.append(reading.combined(logits[places, tokens] - totals[places]))
        return torch.stack(scores, 1)

    def text_states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b t d"]:
        """Return the last states over the text; of padding, those of another column."""
        # States of compiled positions are not known.
        prompt_batch = dataclasses.replace(prompt_batch, compiled=None)
        layout = self._layout(prompt_batch, batch, no_answers(batch))
        with self._running(prompt_batch, batch, layout):
            states = self.base(**self._inputs(prompt_batch, batch, layout)).last_hidden_state[0]
        return states[layout.states]

    @torch.no_grad()
    def compiled(self, prompt_batch: PromptBatch, openings: Sequence[Sequence[int]]) -> list[CompiledPrefix]:
        """Return each prompt's keys and values, with those of the tokens behind it; one pass computes all of them."""
        from transformers import DynamicCache

        batch = rows_of_tokens(openings, prompt_batch.mask.device)
        layout = self._layout(dataclasses.replace(prompt_batch, compiled=None), batch, no_answers(batch))
        # Without a configuration it keeps every position of layers with a sliding window, too.
        cache = DynamicCache()
        with self._running(prompt_batch, batch, layout):
            self.base(**self._inputs(prompt_batch, batch, layout), past_key_values=cache)
        layers, prompts, texts = read_cache(cache, self.name), layout.prompts, layout.texts
        return [
            CompiledPrefix(at_places(layers, places_of(row, prompts, texts)), tuple(opening))
            for row, opening in enumerate(openings)
        ]

    def _layout(self, prompt_batch: PromptBatch, batch: TextBatch, answers: Int[Tensor, "b k l"]) -> Layout:
        return lay_out(prompt_batch, batch, answers, device=batch.ids.device)

    def _asked(self, prompt_batch: PromptBatch, batch: TextBatch, layout: Layout) -> Float[Tensor, "q v"]:
        """Return the logits of the queries."""
        inputs = self._inputs(prompt_batch, batch, layout)
        with self._running(prompt_batch, batch, layout), self._at_queries(layout):
            return self.model(**inputs).logits[0]

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
            "attention_mask": layout.tokens.new_ones(1, sum(layout.held) + len(layout.tokens)),
            "position_ids": layout.positions[None],
            "use_cache": False,
            **held_cache(prompt_batch.compiled or (), layout.held, x),
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

        last = last_layer(self.base) if self.ends_early and len(layout.queries) < len(layout.tokens) else None
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
    of the queries, which attend to them. So everything behind the attention is computed for the queries only.
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
    return sources if batch.prompt_delta is None else batch.owner[sources]


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


def counts_positions(base: Any) -> bool:
    """Whether the layers of a decoder are told the position of each token."""
    return "position_ids" in inspect.signature(base.forward).parameters
