"""Options of the frozen model, in every command that loads one for a task."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How the frozen model computes.

    Args:
        dtype: precision of the frozen model: float32 or bfloat16.
        engine: passes of a T5: packed, reference (transformers' own), or auto: packed where it can be.
        quantize: int8: the frozen linear layers in 8 bits, on a CPU with AVX512-VNNI (docs/models.md).
    """

    dtype: str = "float32"
    engine: str = "auto"
    quantize: str | None = None


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the frozen model is asked for an answer to a row.

    Args:
        style: how rows are put: numeric, words, t5 or pet-N (cloze pattern N). Default: numeric for encoder-decoders,
            else words.
        answers: auto; label-words or linear-head (encoder); chat (instruct decoder).
        max_bad_rows: malformed rows to drop before it is an error.
        revision: commit of the model on the hub.
        embedding_scale: factor on the frozen model's word embeddings; the model computes the same (docs/models.md).
    """

    # This is no Literal, because each task has its own number of patterns.
    style: str | None = None
    answers: str = "auto"
    max_bad_rows: int = field(default=0, metadata={"min": 0})
    revision: str | None = None
    embedding_scale: float = 1.0
