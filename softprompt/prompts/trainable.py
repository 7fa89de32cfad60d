"""Prompts in training. A fleet is p trainable prompts that share the passes of one frozen backbone."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadInput
from ..settings import PromptSettings
from .base import Base
from .batch import PromptBatch
from .contract import AbstractTrainable, ParameterGroup, folded_head, new_head
from .initializers import Initializer, uniform, zeros
from .methods import Method, Units
from .prompt import LinearHead, Provenance, SoftPrompt
from .reparam import AbstractReparameterization
from .seeds import seeded, stream_seed
from .standardization import Standardization
from .units import WordScale

Phi = Callable[[Tensor], Tensor]
# What an ordinary prompt [n, e] leaves for the layers after the first, [k, n, e].
StatesOf = Callable[[Tensor], Tensor]


@final
class TrainablePrompt(AbstractTrainable):
    """One prompt of a fleet: initial vectors, a reparameterisation, repeats, and a linear head where one is needed.

    The prompt is P = unit x Phi(initial), repeated. The unit is 1 ("raw") or the RMS of the word embeddings ("rms").
    With a maximum norm R and the token norm u, P_i min(1, R u / ||P_i||) replaces each vector P_i. The trained
    parameters are measured in units. Therefore, if all embeddings are multiplied by s, Adam gives s times the prompt
    at every step, and the losses stay the same.

    A deep prompt has separate initial vectors for every layer and one Phi for all layers. Its unit in each layer after
    the first is the size of the states that the layer reads. In a decoder it begins as the ordinary prompt: layer l has
    P_l = S_l + unit_l x (Phi(x_l) - Phi(x_l0)), where S_l are the states that the first layer's vectors leave there.

    With a base B, words that stay as they are, the prompt is P = B + unit x Phi(initial), repeated: n vectors, all of
    them stored. A shorter Phi(initial) stands next to the text, after vectors of the base alone. A prompt that begins
    at its words has P = B + unit x (Phi(x) - Phi(x_0)), so that step 0 is the words themselves, and the gradients are
    those of the method.

    Args:
        method: the method, which gives the number of repeats.
        initial: the initial vectors in units, float32 (float64 in tests).
        reparameterization: Phi, which every pass applies to the initial vectors.
        head: a trained linear head, or None where the backbone answers in tokens.
        words: the size of the backbone's word vectors.
        units: "raw" or "rms". A reparameterisation of directions is measured in token norms in both cases.
        max_norm: R, in token norms; None sets no bound.
        max_shift: how far a vector may be from its word, in token norms; None sets no bound.
        deep: the initial vectors of the k layers after the first, in units; None for an ordinary prompt.
        states: the size of the states that each of these k layers reads.
        numbers: the standardisation of the targets of a head of one output. The stored head undoes it.
        base: the words that the prompt is added to; None for an ordinary prompt.
    """

    base: Tensor | None
    deep_base: Tensor | None
    offset: Tensor | None
    deep_offset: Tensor | None

    def __init__(
        self,
        method: Method,
        initial: Float[Tensor, "m e"],
        reparameterization: AbstractReparameterization,
        head: nn.Linear | None,
        *,
        words: WordScale,
        units: Units,
        max_norm: float | None,
        max_shift: float | None = None,
        deep: Float[Tensor, "k m e"] | None = None,
        states: Sequence[WordScale] = (),
        numbers: Standardization | None = None,
        base: Base | None = None,
    ):
        super().__init__()
        self.method = method
        self.initial = nn.Parameter(initial)
        self.reparameterization = reparameterization
        self.head = head
        self.words, self.units = words, units
        self.max_norm, self.max_shift = max_norm, max_shift
        self.deep = None if deep is None else nn.Parameter(deep)
        self.states = tuple(states)
        self.numbers = numbers
        self.begins_at_words = base is not None and base.is_beginning
        # Phi(x_0), where it has to be subtracted to begin at the words.
        offset = reparameterization.fold(initial) if self.begins_at_words else None
        # Not parts of a checkpoint: words and seeds determine them.
        self.register_buffer("base", None if base is None else base.vectors, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("deep_base", None)
        self.register_buffer("deep_offset", None)

    @classmethod
    def build(
        cls,
        settings: PromptSettings,
        initializer: Initializer,
        embeddings: Tensor,
        head_shape: tuple[int, int] | None,
        words: WordScale | None = None,
        states: Sequence[WordScale] = (),
        deeper: Sequence[Initializer] = (),
        numbers: Standardization | None = None,
        base: Base | None = None,
        method: Method | None = None,
        states_of: StatesOf | None = None,
    ) -> "TrainablePrompt":
        """Build the prompt that `settings` describe. The initialisation seed determines every number in it.

        Args:
            settings: method, options, units, maximum norm, seeds.
            initializer: draws the initial vectors, in the prompt's units.
            embeddings: the backbone's word vectors [v, e].
            head_shape: (classes, hidden size) of a linear head, or None.
            words: the size of the embeddings; None measures it.
            states: for a deep prompt, the size of the states that each layer after the first reads.
            deeper: for a deep prompt, one initialiser for each layer after the first, in the prompt's units. Without
                them and without `states_of` the layers begin at uniform vectors.
            numbers: where a head answers with a number, the standardisation of the prompt's training targets.
            base: the words that the prompt is added to.
            method: the method of `settings` at the length of its words; None is the method as it is.
            states_of: what an ordinary prompt leaves for the layers after the first, where a deep one begins as it.

        Raises:
            UnknownName: the method does not exist.
            BadInput: the method has no prompt and the backbone answers in tokens; a method that trains directions
                starts at a zero vector or is to begin at words; or a deep prompt lacks `states`.
        """
        method = method or Method.of(settings)
        if method.prompt_length == 0 and head_shape is None:
            raise BadInput(
                f"{method.name!r} trains a linear head, this backbone answers in tokens; give --answers=linear-head "
                "for an encoder, or choose a method with a prompt"
            )
        seed, device = settings.seeds.initialization, embeddings.device
        # What is added begins at zero: without a network nothing has to be random, and weight decay then pulls back.
        added = zeros() if method.reparameterization == "identity" else uniform()
        if base is not None and base.is_beginning:
            method.refuse_words(settings.init)
            initializer = added
        if deeper or method.is_direction or not settings.deep:
            states_of = None
        if states_of is not None:
            deeper = [added] * len(states)
        initial, deep = _drawn(settings, method, initializer, embeddings, states, deeper)
        reparameterization = method.build(embeddings.shape[1], stream_seed(seed, "network"))
        units = method.resolved(settings).units
        assert units != "auto"
        prompt = cls(
            method,
            initial,
            reparameterization,
            new_head(head_shape, seed),
            words=words or WordScale.of(embeddings),
            units=units,
            max_norm=settings.max_norm,
            max_shift=settings.max_shift,
            deep=deep,
            states=states if settings.deep else (),
            numbers=numbers,
            base=base,
        ).to(device)
        if states_of is not None:
            prompt._begin_layers_at(states_of)
        return prompt

    @property
    def layers(self) -> int:
        """Number of layers that the prompt enters: 1, or all layers of the frozen model if it is deep."""
        return 1 if self.deep is None else 1 + len(self.deep)

    @property
    def unit(self) -> float:
        """The factor from the output of the reparameterisation to the model's own numbers in the first layer."""
        return self._unit(self.words)

    def _unit(self, scale: WordScale) -> float:
        if self.reparameterization.is_direction:
            return scale.token_norm
        return scale.rms if self.units == "rms" else 1.0

    @property
    def length(self) -> int:
        """Prompt length n: the number of positions before the text."""
        return self.method.prompt_length if self.base is None else len(self.base)

    @property
    def repeats(self) -> int:
        """How often the stored vectors are repeated: once where each is a word or a state plus what was trained."""
        return self.method.repeats if self.base is None and self.deep_base is None else 1

    def vectors(self) -> Float[Tensor, "n e"]:
        """Return the n prompt vectors as the backbone sees them, with gradients."""
        return self._first(self.reparameterization).repeat(self.repeats, 1)

    def deep_vectors(self) -> Float[Tensor, "k n e"] | None:
        """Return the n vectors that enter each layer after the first, with gradients; None for an ordinary prompt."""
        deep = self._deep(self.reparameterization)
        return None if deep is None else deep.repeat(1, self.repeats, 1)

    @torch.no_grad()
    def folded(self) -> Float[Tensor, "n e"]:
        """Return the vectors as they are stored: detached, from evaluation mode, in the precision of training."""
        return self._first(self.reparameterization.fold)

    @torch.no_grad()
    def folded_deep(self) -> Float[Tensor, "k n e"] | None:
        """Return the folded vectors of the layers after the first, or None for an ordinary prompt."""
        return self._deep(self.reparameterization.fold)

    def _first(self, phi: Phi) -> Float[Tensor, "n e"]:
        return self._measured(phi(self.initial), self.words, self.base, self.offset)

    def _deep(self, phi: Phi) -> Float[Tensor, "k n e"] | None:
        if self.deep is None:
            return None
        k = len(self.deep)
        bases = [None] * k if self.deep_base is None else self.deep_base
        offsets = [None] * k if self.deep_offset is None else self.deep_offset
        # Phi runs layer by layer because an LSTM reads the vectors of one layer as a sequence.
        layers = zip(self.deep, self.states, bases, offsets, strict=True)
        return torch.stack([self._measured(phi(initial), scale, *words) for initial, scale, *words in layers])

    def _measured(
        self, vectors: Float[Tensor, "m e"], scale: WordScale, base: Tensor | None, offset: Tensor | None
    ) -> Float[Tensor, "n e"]:
        """Convert vectors to the model's own numbers, add them to the base, and apply the maximum norm."""
        if offset is not None:
            vectors = vectors - offset
        vectors = self._unit(scale) * vectors
        if self.repeats != self.method.repeats:
            vectors = vectors.repeat(self.method.repeats, 1)
        if base is not None:
            vectors = base + nn.functional.pad(vectors, (0, 0, len(base) - len(vectors), 0))
        if self.max_norm is None:
            return vectors
        longest = self.max_norm * scale.token_norm
        # The norm is clamped, not the ratio, so that a vector within the bound (or at 0) keeps its bits and gradient.
        return vectors * (longest / vectors.norm(dim=1, keepdim=True).clamp(min=longest))

    @torch.no_grad()
    def _begin_layers_at(self, states_of: StatesOf) -> None:
        """Let the layers after the first begin at what the first layer's vectors leave there."""
        assert self.deep is not None
        ordinary = self.folded().repeat(self.repeats, 1)
        self.deep_offset = torch.stack([self.reparameterization.fold(layer) for layer in self.deep])
        self.deep_base = states_of(ordinary).to(ordinary)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Go on from a checkpoint. The layers after the first began as it says: at random where it holds no states.

        Raises:
            BadInput: an earlier version kept no states of a prompt beside words, and they have changed.
        """
        if self.deep_base is not None and "deep_base" not in state_dict:
            if self.begins_at_words:
                state_dict = {"deep_base": self.deep_base, "deep_offset": self.deep_offset, **state_dict}
            elif self.base is None:
                self.deep_base = self.deep_offset = None
            else:
                raise BadInput(
                    "this run was started by a version in which deep prompts beside words began at random; start a "
                    "new run"
                )
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def project(self) -> None:
        """Move each vector back to the allowed distance from its word; only trained vectors themselves have a bound."""
        if self.max_shift is not None:
            longest = self.max_shift * self.words.token_norm / self.unit
            self.initial.mul_(longest / self.initial.norm(dim=1, keepdim=True).clamp(min=longest))

    def linear_head(self) -> LinearHead | None:
        """Return the weight and bias of the head, with gradients; None where there is no head."""
        return None if self.head is None else LinearHead(self.head.weight, self.head.bias)

    @property
    def is_random(self) -> bool:
        """Whether the reparameterisation has dropout, so that a pass needs a seed."""
        return any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.reparameterization.modules())

    def prompt_parameters(self) -> list[nn.Parameter]:
        """List the trainable parameters of the prompt and its reparameterisation; empty for a head alone."""
        deep = () if self.deep is None else (self.deep,)
        return [p for p in (self.initial, *deep, *self.reparameterization.parameters()) if p.numel()]

    def groups(self) -> list[ParameterGroup]:
        """List the parameters of prompt and head. Weight decay spares the head and prompts that train directions."""
        head = [] if self.head is None else list(self.head.parameters())
        # The length of a direction has no meaning: weight decay would only make the direction turn faster.
        prompt = ParameterGroup(self.prompt_parameters(), "lr", decays=not self.reparameterization.is_direction)
        return [group for group in (prompt, ParameterGroup(head, "head_lr", decays=False)) if group.parameters]

    @property
    def token_norm(self) -> float:
        """The mean norm of the backbone's word vectors."""
        return self.words.token_norm

    def is_finite(self) -> bool:
        """Whether all numbers of the folded prompt and its head are finite, so that they can be stored."""
        head = () if self.head is None else self.head.parameters()
        tensors = (self.folded(), self.folded_deep(), *head)
        return all(bool(torch.isfinite(values).all()) for values in tensors if values is not None)

    def facts(self) -> dict[str, Any]:
        """Return what provenance records of the prompt beside its settings."""
        numbers = self.numbers.to_json() if self.numbers else {}
        deep = {"deep": True, "state_rms": [scale.rms for scale in self.states]} if self.states else {}
        trainable = self.method.trainable(self.initial.shape[1], self.layers)
        return {"trainable": trainable, **vars(self.words), **numbers, **deep}

    def fold(self, provenance: Provenance) -> SoftPrompt:
        """Return the prompt as it is stored: in float32 on the CPU, without a reparameterisation."""
        vectors, deep = self.folded().float().cpu(), self.folded_deep()
        deep = None if deep is None else deep.float().cpu()
        return SoftPrompt(vectors, provenance, self.repeats, folded_head(self.head, self.numbers), deep)

    def restored(self, tensors: Mapping[str, Tensor], provenance: Provenance) -> SoftPrompt:
        """Return a stored prompt of this method from the tensors that `SoftPrompt.tensors` gave."""
        return SoftPrompt.from_tensors(tensors, provenance, self.repeats)


def _drawn(
    settings: PromptSettings,
    method: Method,
    initializer: Initializer,
    embeddings: Tensor,
    states: Sequence[WordScale],
    deeper: Sequence[Initializer],
) -> tuple[Float[Tensor, "m e"], Float[Tensor, "k m e"] | None]:
    """The initial vectors, and of a deep prompt those of the layers after the first."""
    generator = torch.Generator().manual_seed(stream_seed(settings.seeds.initialization, "vectors"))
    initial = initializer(method.m, embeddings.detach().cpu(), generator)
    deep = _initial_states(settings, method.m, embeddings, states, deeper) if settings.deep else None
    drawn = initial if deep is None else torch.cat([initial, deep.flatten(0, 1)])
    if method.is_direction and not drawn.any(dim=1).all():
        raise BadInput(f"{method.name!r} cannot start at a zero vector, which has no direction; take another --init")
    return initial, deep


def _initial_states(
    settings: PromptSettings, m: int, table: Tensor, states: Sequence[WordScale], deeper: Sequence[Initializer]
) -> Float[Tensor, "k m e"]:
    """Draw the initial vectors of the layers after the first.

    They use a separate random stream, so that the first layer starts the same with and without them.
    """
    generator = torch.Generator().manual_seed(stream_seed(settings.seeds.initialization, "deep vectors"))
    if not states:
        raise BadInput("a deep prompt is measured by the states that it meets; give states=backbone.state_scales()")
    draws = deeper or [uniform()] * len(states)
    table = table.detach().cpu()
    return torch.stack([draw(m, table, generator) for draw in draws])


def stack_prompts(trainables: Sequence[AbstractTrainable], seeds: Sequence[int]) -> PromptBatch:
    """Batch what trainables put before the rows, with gradients.

    Args:
        trainables: the members of a fleet.
        seeds: one seed for each, for the dropout of its reparameterisation.
    """
    vectors, deep = [], []
    for trainable, seed in zip(trainables, seeds, strict=True):
        device = next(trainable.parameters()).device
        with seeded(seed, device) if trainable.is_random else contextlib.nullcontext():
            vectors.append(trainable.vectors())
            deep.append(trainable.deep_vectors())
    return PromptBatch.stack(vectors, [head for trainable in trainables if (head := trainable.linear_head())], deep)
