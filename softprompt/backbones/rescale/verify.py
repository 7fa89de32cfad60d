"""Whether a model reads prompt and text as it reads its own token ids: tried on the model itself when it is loaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import UnsupportedModel
from ...prompts.batch import PromptBatch, TextBatch
from .._fit import cause_of
from .._greedy import greedy
from .scale import COARSE

if TYPE_CHECKING:
    from ..base import AbstractBackbone

# A sentence whose special tokens are kept and whose words are replaced by random ones.
TEXT = "The first answer is yes and the second answer is no."
LONGEST, ANSWER = 23, 4
# Of the rows' lengths and of the words that become a prompt, in the longest row's.
LENGTHS, CUTS = (0.25, 0.45, 1.0, 0.7), (0.0, 0.15, 0.3, 0.1)


# The largest difference that is rounding, in units of the largest number compared, and in nats of a log-probability;
# both have to hold. A wrong position or a pad that is read lies far above.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
NATS = {torch.float64: 1e-4, torch.float32: 0.02}
COARSE_NATS = 0.5

# Errors of transformers for a model that cannot be called in this way.
FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, AssertionError)

# Of each row: states over its text [t, d], and logits of its answer [l, v] where there is one.
Passes = list[tuple[Tensor, Tensor | None]]


@torch.no_grad()
def verify(backbone: "AbstractBackbone") -> None:
    """Refuse a model that does not read a prompt of word vectors, and text after it, as it reads the same token ids.

    Four random rows, always the same, each alone and given as ids, are what the others are held to: the same rows
    padded, with no prompt; with prompts of several lengths made of their first words; a greedy answer; and scores,
    which go on from a cache. About fifteen passes over at most 100 tokens: a moment for a small model, and for a
    large one a part of the time that its weights take to load.

    Families in KINDS are proven in the tests instead.

    Raises:
        UnsupportedModel: with what fails.
    """
    rows = random_rows(backbone)
    cuts = [int(share * len(row)) for share, row in zip(CUTS, rows, strict=True)]
    with _refusing(backbone, "it cannot read embeddings in place of token ids"):
        answers = None
        if backbone.kind != "encoder":
            answers = backbone.answer_ids(*_joined(backbone, rows, cuts), max_new_tokens=ANSWER, at_least=ANSWER)
        plain, prompted = (_passes(backbone, rows, some, answers) for some in ([0] * len(rows), cuts))
    with _refusing(backbone, "its pass over token ids fails"):
        by_ids = [_by_ids(backbone, row, None if answers is None else answers[i]) for i, row in enumerate(rows)]
    _refuse_other_passes(backbone, rows, answers, by_ids, plain)
    _refuse_difference(
        backbone, _cut(by_ids, cuts), prompted, "a prompt made of word vectors does not act as those words"
    )
    if answers is not None:
        _refuse_other_answers(backbone, rows, answers, by_ids)
        _refuse_other_scores(backbone, rows, cuts, answers, by_ids)


def random_rows(backbone: "AbstractBackbone") -> list[Int[Tensor, " t"]]:
    """Four rows of different lengths: random words between the tokenizer's special tokens, the same each time."""
    special = set(backbone.tokenizer.all_special_ids) - {backbone.tokenizer.unk_token_id}
    ids = list(backbone.tokenizer(TEXT + backbone.input_suffix).input_ids)
    words = [i for i, token in enumerate(ids) if token not in special]
    before, after = ids[: words[0]], ids[words[-1] + 1 :] if backbone.kind != "decoder" else []
    known = torch.tensor([token for token in range(len(backbone.tokenizer)) if token not in special])
    limit = LONGEST if backbone.max_positions is None else min(LONGEST, backbone.max_positions - ANSWER)
    room = limit - len(before) - len(after)
    draw = torch.Generator().manual_seed(0)
    drawn = [known[torch.randint(len(known), (max(1, int(s * room)),), generator=draw)].tolist() for s in LENGTHS]
    return [torch.tensor([*before, *row, *after], device=backbone.device) for row in drawn]


def _joined(
    backbone: "AbstractBackbone", rows: Sequence[Tensor], cuts: Sequence[int], targets: Tensor | None = None
) -> tuple[PromptBatch, TextBatch]:
    """The rows, padded, with the first words of each row as its prompt."""
    prompt_batch = PromptBatch.stack([backbone.embed(row[:cut]).float() for row, cut in zip(rows, cuts, strict=True)])
    texts = [row[cut:] for row, cut in zip(rows, cuts, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=backbone.pad_id)
    lengths = torch.tensor([len(text) for text in texts], device=ids.device)
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return prompt_batch, TextBatch(ids, mask, torch.arange(len(rows), device=ids.device), targets)


def _passes(
    backbone: "AbstractBackbone", rows: Sequence[Tensor], cuts: Sequence[int], answers: Tensor | None
) -> Passes:
    """States of each row's text and logits of its answer, as the backbone computes them in one batch."""
    prompt_batch, batch = _joined(backbone, rows, cuts, answers)
    states = backbone.text_states(prompt_batch, batch)
    logits = None if backbone.answers == "linear-head" else backbone.logits(prompt_batch, batch)
    lengths = batch.mask.sum(1)
    return [(states[i, : lengths[i]], None if logits is None else logits[i]) for i in range(len(rows))]


def _by_ids(
    backbone: "AbstractBackbone", row: Int[Tensor, " t"], answer: Int[Tensor, " l"] | None
) -> tuple[Tensor, Tensor | None]:
    """The same of one row alone by the model's own pass on token ids, and the answer given, not generated."""
    kept: list[Tensor] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        kept.append(output.last_hidden_state[0, : len(row)])

    inputs, columns = _inputs(backbone, row, answer)
    with backbone.stack.register_forward_hook(keep):
        output = backbone.model(**{name: ids[None] for name, ids in inputs.items()})
    return kept[0], None if columns is None else output.logits[0, columns]


def _inputs(
    backbone: "AbstractBackbone", row: Int[Tensor, " t"], answer: Int[Tensor, " l"] | None
) -> tuple[dict[str, Tensor], "slice | Tensor | None"]:
    """What the model is called with, and where its logits are those of the answer."""
    if answer is None:
        inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        at_the_mask = row == backbone.tokenizer.mask_token_id
        return inputs, None if backbone.answers == "linear-head" else at_the_mask.nonzero()[-1]
    if (start := _start(backbone)) is not None:
        decoder = torch.cat([answer.new_tensor([start]), answer[:-1]])
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "decoder_input_ids": decoder}, slice(None)
    whole = torch.cat([row, answer[:-1]])
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole)}, slice(len(row) - 1, None)


def _cut(passes: Passes, cuts: Sequence[int]) -> Passes:
    return [(states[cut:], logits) for (states, logits), cut in zip(passes, cuts, strict=True)]


def _refuse_other_passes(
    backbone: "AbstractBackbone", rows: Sequence[Tensor], answers: Tensor | None, by_ids: Passes, plain: Passes
) -> None:
    """Refuse passes without a prompt that differ from the model's own; each row alone tells whether padding is why."""
    if _agree(backbone, by_ids, plain):
        return
    alone = [_passes(backbone, [row], [0], None if answers is None else answers[i : i + 1])[0]
             for i, row in enumerate(rows)]  # fmt: skip
    _refuse_difference(backbone, by_ids, alone, "it reads token ids otherwise than their embeddings")
    _refuse_difference(backbone, by_ids, plain, "padding changes its states")


def _refuse_other_answers(
    backbone: "AbstractBackbone", rows: Sequence[Tensor], answers: Tensor, by_ids: Passes
) -> None:
    """Refuse greedy answers that are neither the likeliest by the model's own ids, but for ties, nor generated by it.

    Some models read an answer in one pass otherwise than token by token (ProphetNet, experts with a capacity).
    """
    for row, answer, (_, logits) in zip(rows, answers, by_ids, strict=True):
        assert logits is not None
        scores = logits.float().log_softmax(-1)
        # The answers were generated without an early end.
        scores[:, list(backbone.ends)] = -torch.inf
        chosen = scores.gather(1, answer[:, None])[:, 0]
        if (scores.amax(1) - chosen).max() <= _nats(backbone):
            continue
        with _refusing(backbone, "it generates no answer to token ids"):
            generated = _generated(backbone, row)
        if not torch.equal(generated, answer):
            _refuse(backbone, "its greedy answers after embeddings are not those after token ids")


def _start(backbone: "AbstractBackbone") -> int | None:
    """The token that the decoder of an encoder-decoder starts with."""
    return getattr(backbone, "start", None)


def _generated(backbone: "AbstractBackbone", row: Int[Tensor, " t"]) -> Int[Tensor, " l"]:
    """The answer of the model's own generation from token ids."""
    start = _start(backbone)
    more = {} if start is None else {"decoder_start_token_id": start}
    settings: dict[str, Any] = {"max_new_tokens": ANSWER, "at_least": ANSWER, **more}
    with greedy(backbone.model, ends=backbone.ends, pad=backbone.pad_id, **settings):
        ids = backbone.model.generate(input_ids=row[None], attention_mask=torch.ones_like(row[None]))
    return ids[0, -ANSWER:]


def _refuse_other_scores(
    backbone: "AbstractBackbone", rows: Sequence[Tensor], cuts: Sequence[int], answers: Tensor, by_ids: Passes
) -> None:
    """Refuse scores of whole answers that differ from the model's own, from a cache and by whole passes.

    A decoder whose cache is to blame reads each answer with its text from now on.
    """
    expected = [_score(logits, answer) for (_, logits), answer in zip(by_ids, answers, strict=True)]
    prompt_batch, batch = _joined(backbone, rows, cuts)
    labels = [answer.tolist() for answer in answers]

    def are_right() -> bool:
        scores = backbone.label_scores(prompt_batch, batch, labels).diagonal()
        return bool((scores - torch.stack(expected)).abs().max() <= _nats(backbone))

    if backbone.kind == "decoder":
        with suppress(*FAILURES):
            if are_right():
                return
        backbone.continues = False
    with _refusing(backbone, "it cannot score an answer of several tokens"):
        right = are_right()
    if not right:
        _refuse(backbone, "its scores of an answer of several tokens are not those after token ids")


def _score(logits: Tensor | None, answer: Int[Tensor, " l"]) -> Float[Tensor, ""]:
    """Log-probability in nats of a whole answer."""
    assert logits is not None
    return logits.float().log_softmax(-1).gather(1, answer[:, None]).sum()


def _refuse_difference(backbone: "AbstractBackbone", expected: Passes, passes: Passes, what: str) -> None:
    if not _agree(backbone, expected, passes):
        _refuse(backbone, what)


def _agree(backbone: "AbstractBackbone", expected: Passes, passes: Passes) -> bool:
    """Whether states differ by rounding only, and log-probabilities too."""
    relative = _relative(backbone)
    for (states, logits), (other_states, other_logits) in zip(expected, passes, strict=True):
        if not _apart(states, other_states) <= relative * states.abs().max():
            return False
        if logits is None or other_logits is None:
            continue
        scores, other = logits.float().log_softmax(-1), other_logits.float().log_softmax(-1)
        finite = scores.isfinite()
        difference = _apart(scores, other)
        if not (difference <= _nats(backbone) and difference <= relative * scores[finite].abs().max()):
            return False
    return True


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """The largest difference; two infinities do not differ."""
    a, b = a.float(), b.float()
    return torch.where(a == b, 0, a - b).abs().max()


def _relative(backbone: "AbstractBackbone") -> float:
    return COARSE if _is_quantized(backbone) else TOLERANCE.get(backbone.dtype, COARSE)


def _nats(backbone: "AbstractBackbone") -> float:
    return COARSE_NATS if _is_quantized(backbone) else NATS.get(backbone.dtype, COARSE_NATS)


def _is_quantized(backbone: "AbstractBackbone") -> bool:
    """Whether layers round more coarsely than the precision of the embeddings suggests."""
    return getattr(backbone.model.config, "quantization_config", None) is not None


@contextmanager
def _refusing(backbone: "AbstractBackbone", what: str) -> Iterator[None]:
    """Turn an error of transformers in the `with` block into a refusal of the model."""
    try:
        yield
    except FAILURES as error:
        raise _unsupported(backbone, f"{what}: {cause_of(error)}") from error


def _refuse(backbone: "AbstractBackbone", what: str) -> None:
    raise _unsupported(backbone, what)


def _unsupported(backbone: "AbstractBackbone", what: str) -> UnsupportedModel:
    family = backbone.model.config.model_type
    return UnsupportedModel(f"{backbone.name!r} (a {family}) cannot be used: {what}")
