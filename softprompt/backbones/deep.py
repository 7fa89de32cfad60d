"""Deep prompts: each layer after the first reads vectors of its own at the positions of the prompt.

P-tuning v2 (Liu et al., 2022, arXiv:2110.07602). Layers are numbered from 1; into layer 1 goes the ordinary prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import UnsupportedModel
from ..prompts.batch import PromptBatch
from ..prompts.units import WordScale

# Rows and columns of the random tokens on which states are measured.
SAMPLE = (8, 32)
T = TypeVar("T")


@final
@dataclass(frozen=True)
class Fresh:
    """What the layers after the first read at the prompt's positions, instead of what the layer before left there.

    Args:
        vectors: of all prompts, in the model's own numbers.
        owner: which prompt each row has.
        places: which of the n vectors each column takes; -1 where the state stays: text, pads, and whole rows of a
            prompt that is not deep.
    """

    vectors: Float[Tensor, "p k n d"]
    owner: Int[Tensor, " b"]
    places: Int[Tensor, "b s"]

    @classmethod
    def of(cls, prompt_batch: PromptBatch, owner: Int[Tensor, " b"], text: int) -> "Fresh | None":
        """For rows of a prompt and `text` more columns; None where no prompt is deep."""
        if prompt_batch.deep is None or prompt_batch.is_deep is None:
            return None
        is_deep_position = prompt_batch.mask[owner] & prompt_batch.is_deep[owner, None]
        places = torch.arange(prompt_batch.mask.shape[1], device=owner.device).where(is_deep_position, -1)
        return cls(prompt_batch.deep, owner, places).with_more(text)

    def with_more(self, columns: int) -> "Fresh":
        """Followed by so many columns of text, or of an answer."""
        return Fresh(self.vectors, self.owner, nn.functional.pad(self.places, (0, columns), value=-1))

    def in_order(self, order: Int[Tensor, "b t"]) -> "Fresh":
        """For rows whose columns are put into another order, or left out."""
        return Fresh(self.vectors, self.owner, self.places.gather(1, order))


def layers_of(stack: Any, name: str, e: int) -> Sequence[nn.Module]:
    """The layers of a stack in their order: the first list of as many modules as its configuration says.

    Args:
        stack: an encoder or a decoder.
        name: for messages.
        e: width of the word vectors.

    Raises:
        UnsupportedModel: states wider than word vectors, a single layer, or no such list (ALBERT's layers are one).
    """
    config = stack.config.get_text_config()
    d, depth = config.hidden_size, config.num_hidden_layers
    if d != e:
        raise UnsupportedModel(
            f"a deep prompt needs word vectors as wide as the states, {name!r} has e = {e} and d = {d}; "
            "leave --deep out"
        )
    if depth < 2:
        raise UnsupportedModel(f"{name!r} has one layer, which an ordinary prompt enters already; leave --deep out")
    lists = (module for module in stack.modules() if isinstance(module, nn.ModuleList))
    module_list = next(lists, None)
    if module_list is None or len(module_list) != depth:
        raise UnsupportedModel(
            f"the layers of {name!r} are not {depth} modules in one list, so a deep prompt cannot enter them; "
            "leave --deep out"
        )
    return list(module_list)


@contextmanager
def entering(layers: Sequence[nn.Module], fresh: Fresh | None, name: str) -> Iterator[None]:
    """Within, the first pass through `layers` reads fresh vectors at the prompt's positions of layers 2, 3 ...

    Later passes within, those of a generation that goes on from a cache, hold no prompt position and stay as they are.

    Args:
        layers: of `layers_of`; not read where `fresh` is None.
        fresh: what enters; None changes nothing.
        name: for messages.

    Raises:
        UnsupportedModel: states that are not laid out as the input, or a layer that is never called.
    """
    if fresh is None:
        yield
        return
    rows, columns = (fresh.places >= 0).nonzero(as_tuple=True)
    owner, places = fresh.owner[rows], fresh.places[rows, columns]
    needed = (*fresh.places.shape, fresh.vectors.shape[-1])
    entered: set[int] = set()

    def enter(number: int, states: Tensor) -> Tensor:
        if number in entered:
            return states
        entered.add(number)
        # Beams are copies of a row, one after the other.
        copies = states.shape[0] // needed[0]
        _refuse_another_layout(states, (copies * needed[0], *needed[1:]), number, name)
        replacement = fresh.vectors[owner, number, places].to(states)
        for copy in range(copies):
            states = states.index_put((copies * rows + copy, columns), replacement)
        return states

    with _reading(layers[1:], enter):
        yield
    # Layers are dropped at random in a few models (BART), in training only.
    if not layers[0].training:
        _refuse_uncalled(len(layers) - 1 - len(entered), name)


@torch.no_grad()
def state_scales(stack: Any, embeddings: Any, name: str) -> list[WordScale]:
    """How large the states are that layers 2, 3 ... read: of random tokens, so a property of the model alone.

    Args:
        stack: that reads the prompt.
        embeddings: its word embedding module.
        name: for messages.

    Raises:
        UnsupportedModel: the model cannot have a deep prompt, and why.
    """
    layers = layers_of(stack, name, embeddings.weight.shape[1])
    ids = torch.randint(len(embeddings.weight), SAMPLE, generator=torch.Generator().manual_seed(0))
    embeds = embeddings(ids.to(embeddings.weight.device))
    return _at_each(stack, layers, embeds, name, lambda states: WordScale.of_states(states.flatten(0, 1)))


@torch.no_grad()
def prompt_states(
    stack: Any, layers: Sequence[nn.Module], embeds: Float[Tensor, "1 n d"], name: str
) -> Float[Tensor, "k n d"]:
    """What layers 2, 3 ... read where an ordinary prompt stands alone.

    Args:
        stack: that reads it.
        layers: of `layers_of`.
        embeds: the prompt.
        name: for messages.

    Raises:
        UnsupportedModel: states that are not laid out as the input, or a layer that is never called.
    """
    return torch.stack(_at_each(stack, layers, embeds, name, lambda states: states[0].float()))


def _at_each(
    stack: Any,
    layers: Sequence[nn.Module],
    embeds: Float[Tensor, "b n d"],
    name: str,
    of: Callable[[Float[Tensor, "b n d"]], T],
) -> list[T]:
    """What `of` makes of the states that layers 2, 3 ... read where the stack reads these vectors and nothing else."""
    found: dict[int, T] = {}

    def look(number: int, states: Tensor) -> Tensor:
        _refuse_another_layout(states, tuple(embeds.shape), number, name)
        found[number] = of(states)
        return states

    with _reading(layers[1:], look):
        stack(inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device))
    _refuse_uncalled(len(layers) - 1 - len(found), name)
    return [found[number] for number in range(len(layers) - 1)]


def _refuse_another_layout(states: Tensor, needed: tuple[int, ...], number: int, name: str) -> None:
    if tuple(states.shape) != needed:
        raise UnsupportedModel(
            f"layer {number + 2} of {name!r} reads states of shape {tuple(states.shape)}, not {needed}, so a deep "
            "prompt cannot enter it; leave --deep out"
        )


def _refuse_uncalled(count: int, name: str) -> None:
    if count:
        raise UnsupportedModel(
            f"{count} layers of {name!r} were not called, so a deep prompt cannot enter them; leave --deep out"
        )


@contextmanager
def _reading(layers: Sequence[nn.Module], read: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Within, each layer is called with what `read` makes of its number and the states that it was called with."""

    def before(number: int, layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if arguments:
            return (read(number, arguments[0]), *arguments[1:]), options
        return arguments, {**options, "hidden_states": read(number, options["hidden_states"])}

    with ExitStack() as hooks:
        for number, layer in enumerate(layers):
            # Before the layer, not in it: a layer that is recomputed in the backward pass finds its input as it was.
            hooks.enter_context(layer.register_forward_pre_hook(partial(before, number), with_kwargs=True))
        yield
