"""Training of a masked-LM head for an encoder without one. The encoder stays frozen, and only the head learns.

Devlin et al., 2019, arXiv:1810.04805, section 3.1: of each text 15 % of the tokens are asked for; of those 80 % are
replaced by the mask, 10 % by a random token, 10 % stay. With the body frozen the head can only read what the states
hold: expect label words that are ranked, not those of a model that was pretrained to fill masks.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import silence, with_new_head
from ..checks import refuse_exists, require_numbers
from ..data import stream
from ..errors import BadInput, Interrupted
from ..store import json_bytes, refuse_no_place, write_folder
from ..training import fast_denormals, interruptible
from .cloze import Cloze, Hidden
from .texts import is_held_out, training_texts

RECORD = "mlm_head.json"
# Number of batches whose texts are sorted by length together, because texts have from two tokens up to the limit.
BUCKET = 32


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """The settings of a head's training.

    Args:
        steps: optimiser steps.
        batch_size: texts a step.
        lr: AdamW's at its peak; warmed up over a tenth of the steps, then linear to zero.
        weight_decay: AdamW's.
        masked: share of the tokens that are asked for.
        max_length: tokens of a text, special tokens included; the rest is cut off.
        texts: of each task, at most.
        held_out: one text of so many is kept to measure on.
        measured: held-out texts, at most.
    """

    steps: int = 2000
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    masked: float = 0.15
    max_length: int = 128
    texts: int = 8000
    held_out: int = 20
    measured: int = 500

    def __post_init__(self) -> None:
        """Refuse settings with which nothing is trained or measured.

        Raises:
            BadInput: a number outside its range.
        """
        counts = {name: getattr(self, name) for name in ("steps", "batch_size", "max_length", "texts", "measured")}
        require_numbers(counts, whole=True)
        require_numbers({"lr": self.lr})
        require_numbers({"weight_decay": self.weight_decay}, zero=True)
        if not 0 < self.masked < 1 or self.held_out < 2:
            raise BadInput(
                f"masked is a share of the tokens between 0 and 1, and one text of 2 or more is held out; these are "
                f"{self.masked} and {self.held_out}"
            )


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """The result of a head's training.

    Args:
        folder: plain folder of transformers: encoder, head and tokenizer.
        texts: how many the head learned from, by task.
        held_out: how many it was measured on.
        before: share of the masked tokens of held-out texts that the random head finds.
        after: likewise, the trained head.
        frequent: likewise, always answering the most frequent token of the training texts.
    """

    folder: Path
    texts: dict[str, int]
    held_out: int
    before: float
    after: float
    frequent: float


def fit_mlm_head(
    model: str,
    output: Path | str,
    *,
    data_root: Path | str,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    recipe: HeadRecipe = HeadRecipe(),
    progress: bool = False,
) -> FittedHead:
    """Train the masked-LM head of an encoder on the training texts below a data root, and store both together.

    Everything random follows from the seed. The folder is complete or absent; its `mlm_head.json`
    holds recipe, texts and masked accuracies.

    Args:
        model: folder or hub id of an encoder whose checkpoint has no masked-LM head.
        output: new folder, which `load_backbone` and plain `from_pretrained` load.
        data_root: folder with rows of the known tasks.
        steps: optimiser steps; None takes the recipe's.
        seed: of the head's initial weights, of texts and masks.
        device: "auto", "cpu", "cuda" ...
        recipe: everything else.
        progress: show a bar on standard error.

    Raises:
        BadInput: the folder is in use, no texts, or a model that cannot be loaded or has a head.
        UnsupportedModel: no encoder, or no mask token.
        Interrupted: after Ctrl-C; nothing is written.
    """
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    folder = Path(output)
    refuse_exists(folder, "the model", empty_folder=True)
    refuse_no_place(folder, "the model")
    sources = training_texts(data_root, recipe.texts)
    encoder, tokenizer = with_new_head(model, seed=seed, device=device)
    texts = {name: [text for text in part if not is_held_out(text, recipe.held_out)] for name, part in sources.items()}
    held = sorted({text for part in sources.values() for text in part if is_held_out(text, recipe.held_out)})
    # Every k-th text is taken, because the first texts in sorted order begin with quotes and digits.
    held = held[:: max(1, -(-len(held) // recipe.measured))]
    lesson = _cloze(tokenizer, sorted({text for part in texts.values() for text in part}), recipe)
    test = _cloze(tokenizer, held, recipe)
    before = accuracy(encoder, test)
    with fast_denormals(), interruptible() as is_stopped:
        _train(encoder, lesson, recipe, seed, is_stopped, progress)
    fitted = FittedHead(
        folder=folder,
        texts={name: len(part) for name, part in texts.items()},
        held_out=len(test),
        before=before,
        after=accuracy(encoder, test),
        frequent=accuracy(encoder, test, always=lesson.most_frequent),
    )
    _write(encoder, tokenizer, fitted, {"model": model, "seed": seed, "recipe": dataclasses.asdict(recipe)})
    return fitted


@torch.no_grad()
def accuracy(model: Any, test: Cloze, always: int | None = None) -> float:
    """Share of the masked tokens of these texts that the model predicts. The masks are the same in every call.

    Args:
        model: with its masked-LM head.
        test: texts.
        always: a token to answer instead of asking the model.
    """
    generator, right, total = _generator("test"), 0, 0
    for rows in test.rows.lengths.argsort(stable=True).split(64):
        hidden = test.hide(rows, generator, shown=False)
        answers = logits_at(model, hidden).argmax(-1).cpu() if always is None else always
        right += int((hidden.answers == answers).sum())
        total += len(hidden.answers)
    return right / total


def logits_at(model: Any, hidden: Hidden) -> Float[Tensor, "k v"]:
    """The head's logits at the masked positions only, because the vocabulary is large."""
    is_asked = hidden.asked.to(model.device)

    def keep_the_asked(module: Any, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[is_asked][None]
        return output

    with model.base_model.register_forward_hook(keep_the_asked):
        mask = hidden.mask.to(model.device).long()
        return model(input_ids=hidden.ids.to(model.device), attention_mask=mask).logits[0]


def _cloze(tokenizer: Any, texts: Sequence[str], recipe: HeadRecipe) -> Cloze:
    return Cloze(tokenizer, texts, share=recipe.masked, max_length=recipe.max_length)


def _train(
    model: Any, lesson: Cloze, recipe: HeadRecipe, seed: int, is_stopped: Callable[[], bool], progress: bool
) -> None:
    from rich.console import Console
    from rich.progress import track

    head = [weight for weight in model.parameters() if weight.requires_grad]
    adamw = torch.optim.AdamW(head, recipe.lr, weight_decay=recipe.weight_decay)
    batches = stream(lesson.rows.lengths, range(len(lesson)), recipe.batch_size, seed=seed, bucket=BUCKET)
    steps = range(1, recipe.steps + 1)
    for step in track(steps, "masked-LM head", console=Console(stderr=True), disable=not progress):
        if is_stopped():
            raise Interrupted(f"stopped after step {step - 1} of {recipe.steps}; nothing is written")
        generator = _generator(f"{seed} {step}")
        hidden = lesson.hide(torch.tensor(next(batches)), generator)
        logits = logits_at(model, hidden)
        loss = torch.nn.functional.cross_entropy(logits, hidden.answers.to(logits.device))
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        for group in adamw.param_groups:
            group["lr"] = recipe.lr * min(10 * step, recipe.steps, (recipe.steps - step + 1) * 10 / 9) / recipe.steps
        adamw.step()


def _generator(key: str) -> torch.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _write(model: Any, tokenizer: Any, fitted: FittedHead, record: Mapping[str, Any]) -> None:
    """Write encoder, head, tokenizer and record into one folder, complete or not at all."""
    values = {name: value for name, value in dataclasses.asdict(fitted).items() if name != "folder"}
    with tempfile.TemporaryDirectory() as temporary, silence():
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        contents = {path.name: path.read_bytes() for path in sorted(Path(temporary).iterdir())}
    contents[RECORD] = json_bytes({**record, **values})
    write_folder(fitted.folder, contents, what="the encoder with its head", manifest=False)
