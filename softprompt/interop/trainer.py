"""Our regularisers in `transformers.Trainer`: a loss function, and a callback that tells it the step and the rows.

    loss = RegularizedLoss("ptp-rn", tokenizer)
    Trainer(model=as_peft(model, "ept-star"), compute_loss_func=loss, callbacks=[loss.callback()], ...)

A loss function of Trainer sees outputs and labels only. The callback therefore puts a hook on the model, which
remembers the arguments of the clean pass, so that the perturbed passes can repeat it.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..backbones.family import embedded
from ..checks import listed
from ..errors import BadInput
from ..losses import IGNORED, task_losses, wrong_tokens
from ..prompts.batch import SPECIAL, TextBatch
from ..regularizers import (
    DIVERGENCES,
    PerturbationContext,
    Regularizer,
    pass_seed,
    regularizers,
    row_divergences,
)
from ._trained_model import Pass, TrainedModel, passes_of, random_states, same_draws

# All words of Trainer's rows count as words of one column: nothing says which of them belong to a template.
COLUMN = 1


@final
class RegularizedLoss:
    """(1 - sum share) CE(clean) + sum (share CE(perturbed) + alpha D(clean, perturbed)), as our own training has it.

    CE is the mean over rows of the mean over the answer's tokens, in nats. Evaluation gives CE alone.

    Args:
        regularizer: as in `--regularizer`: "ptp-rn", "rn-emb:sigma=0.1,alpha=0.3", several joined by "+".
        tokenizer: the tokenizer of the model; its special tokens are never perturbed.
        label_words: words that no perturbation of words inserts or removes.
        seed: the noise seed.

    Raises:
        UnknownName: a regulariser or an option does not exist.
        BadInput: an option that Trainer's rows cannot serve.
    """

    def __init__(self, regularizer: str, tokenizer: Any, *, label_words: Sequence[str] = (), seed: int = 0):
        self.regularizers = regularizers(regularizer)
        if not self.regularizers:
            raise BadInput("there is no regulariser to add; give one, as in RegularizedLoss('ptp-rn', tokenizer)")
        for term in self.regularizers:
            _refuse_what_rows_lack(term)
        self.tokenizer, self.seed = tokenizer, seed
        self.label_words = [
            tokenizer(word, add_special_tokens=False)["input_ids"] for word in listed("label_words", label_words)
        ]
        self.trained: TrainedModel | None = None
        self.now = Pass(1, 1)
        # Optimiser steps before this epoch; those of a resumed run are whole epochs and the begun one.
        self.epoch_began = 0
        self.is_repeating = False
        self.checked: set[int] = set()

    def callback(self) -> Any:
        """Return the `TrainerCallback` that belongs to this loss."""
        from transformers import TrainerCallback

        loss, hooks = self, contextlib.ExitStack()

        class RegularizerCallback(TrainerCallback):
            def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
                # Trainer may evaluate before it trains.
                loss.trained = TrainedModel(model, loss.tokenizer, loss.label_words)

            def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
                loss.trained = TrainedModel(model, loss.tokenizer, loss.label_words)
                loss.now = Pass(state.max_steps, args.gradient_accumulation_steps)
                loss.epoch_began = 0
                hooks.callback(model.register_forward_pre_hook(loss.remember, with_kwargs=True).remove)

            def on_step_begin(
                self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any
            ) -> None:
                loss.now.step, loss.now.number = state.global_step + 1, 0
                done = state.global_step - loss.epoch_began
                loss.now.passes = passes_of(done, args.gradient_accumulation_steps, train_dataloader)

            def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                loss.epoch_began = state.global_step

            def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                loss.now.number += 1

            def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                hooks.close()

        return RegularizerCallback()

    def remember(self, model: nn.Module, positional: tuple[Any, ...], arguments: Mapping[str, Any]) -> None:
        """Keep the arguments of a training pass, for its perturbed passes; a hook of torch.

        Raises:
            BadInput: the rows have no token ids, or an encoder-decoder's have no decoder_input_ids.
        """
        if not model.training or self.is_repeating:
            return
        if arguments.get("input_ids") is None:
            raise BadInput("a regulariser perturbs token ids, and this batch has none; give input_ids by name")
        assert self.trained is not None
        if self.trained.kind == "encoder-decoder" and arguments.get("decoder_input_ids") is None:
            raise BadInput(
                "Trainer takes the labels from an encoder-decoder whose loss is a function; give "
                "data_collator=DataCollatorForSeq2Seq(tokenizer, model=model), which adds decoder_input_ids"
            )
        self.now.arguments, self.now.draws = dict(arguments), random_states()

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None) -> Float[Tensor, ""]:
        """Return the loss of a batch, in training divided by the number of passes of a step, as Trainer expects.

        Raises:
            BadInput: a row without a label, or the callback is missing.
        """
        if self.trained is None:
            raise BadInput("this loss needs its callback; give Trainer callbacks=[loss.callback()]")
        _refuse_no_labels(labels)
        assert labels is not None
        self.now.labels = labels
        clean, targets = self.trained.aligned(outputs.logits, labels)
        task = task_losses(clean, targets).mean()
        if not self.trained.model.training:
            return task
        return self._regularized(task, clean, targets) / self.now.passes

    def _regularized(self, task: Tensor, clean: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        added, weight = torch.zeros_like(task), 1.0
        for index, regularizer in enumerate(self.regularizers):
            alpha, share = regularizer.weights(self.now.step, self.now.steps)
            if not (alpha or share):
                continue
            weight -= share
            perturbation = regularizer.perturbation
            context = self._context(index, regularizer, clean.detach(), targets)
            if index not in self.checked:
                self._refuse_no_effect(regularizer, context)
                self.checked.add(index)
            for rows in perturbation.batches(context, {0: perturbation}):
                logits = self._repeated(rows, anew=perturbation.is_dropout)
                added = added + share * task_losses(logits, targets).mean()
                if alpha:
                    added = added + alpha * _divergences(regularizer.divergence, clean, logits, targets).mean()
        return weight * task + added

    def _context(self, index: int, regularizer: Regularizer, clean: Tensor, targets: Tensor) -> PerturbationContext:
        assert self.trained is not None
        rows = self._rows(targets)
        seed = pass_seed(self.seed, index, self.now.step, self.now.number)
        context = PerturbationContext(
            batch=rows,
            # The prompt is inside the model, where nothing is perturbed.
            prompt_mask=rows.mask[:, :0],
            logits=self._repeated,
            losses=lambda logits, _: task_losses(logits, targets),
            wrong=lambda logits, _: wrong_tokens(logits, targets),
            divergence=lambda name, before, after, _: _divergences(name, before, after, targets),
            clean=clean,
            gradient=None,
            generators={0: torch.Generator().manual_seed(seed)},
            words=self.trained.words,
            vocabulary=self.trained.vocabulary,
            embeddings=self.trained.table,
        )
        if not regularizer.perturbation.wants_gradient:
            return context
        return dataclasses.replace(context, gradient=self._gradient(rows, targets))

    def _rows(self, targets: Tensor) -> TextBatch:
        """The rows of the clean pass. A decoder's answer counts as absent, so that it is not perturbed."""
        assert self.trained is not None
        ids = self.now.arguments["input_ids"]
        given = self.now.arguments.get("attention_mask")
        mask = torch.ones_like(ids, dtype=torch.bool) if given is None else given.bool()
        if self.trained.kind == "decoder" and self.now.labels.ndim == 2:
            mask = mask & (self.now.labels == IGNORED)
        parts = torch.where(torch.isin(ids, self.trained.special), SPECIAL, COLUMN)
        return TextBatch(ids, mask, torch.zeros(len(ids), dtype=torch.long, device=ids.device), targets, parts)

    def _gradient(self, rows: TextBatch, targets: Tensor) -> Float[Tensor, "b t e"]:
        """The gradient of the task loss with respect to the embedded text."""
        assert self.trained is not None
        delta = torch.zeros(*rows.ids.shape, self.trained.table.shape[1], device=rows.ids.device).requires_grad_()
        losses = task_losses(self._repeated(dataclasses.replace(rows, text_delta=delta)), targets)
        return torch.autograd.grad(losses.mean(), delta)[0]

    def _repeated(self, rows: TextBatch, *, anew: bool = False) -> Float[Tensor, "b l v"]:
        """Repeat the clean pass with other ids or shifted embeddings, and with its draw of dropout unless `anew`."""
        assert self.trained is not None
        vectors = embedded(self.trained.base, rows.ids)
        if rows.text_delta is not None:
            vectors = vectors + rows.text_delta.to(vectors.dtype)
        arguments = {**self.now.arguments, "input_ids": None, "inputs_embeds": vectors}
        self.is_repeating = True
        try:
            with contextlib.nullcontext() if anew else same_draws(self.now.draws):
                logits = self.trained.model(**arguments).logits
        finally:
            self.is_repeating = False
        return self.trained.aligned(logits, self.now.labels)[0]

    def _refuse_no_effect(self, regularizer: Regularizer, context: PerturbationContext) -> None:
        """Refuse a regulariser that would silently have no effect on these rows."""
        assert self.trained is not None
        dropped = any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.trained.base.modules())
        if regularizer.perturbation.is_dropout and not dropped:
            raise BadInput("r-drop compares two draws of the frozen model's dropout, and this model has none")
        regularizer.perturbation.check(context)


def _divergences(name: str, clean: Tensor, perturbed: Tensor, targets: Tensor) -> Float[Tensor, " b"]:
    """The divergence of each row, or the task loss of the perturbed row for the name "ce"."""
    if name not in DIVERGENCES:
        return task_losses(perturbed, targets)
    positions = torch.ones_like(targets, dtype=torch.bool) if targets.is_floating_point() else targets != IGNORED
    return row_divergences(DIVERGENCES[name], clean, perturbed, positions)


def _refuse_no_labels(labels: Tensor | None) -> None:
    """Refuse rows without a label, whose loss is not a number, which Trainer's log hides."""
    if labels is None or not bool((labels != IGNORED).reshape(len(labels), -1).any(1).all()):
        raise BadInput("this loss needs a label in every row, and a row has none; leave such rows out")
    if labels.ndim == 2 and labels.is_floating_point():
        raise BadInput("this loss knows tokens, classes and one number a row, not several labels at once")


def _refuse_what_rows_lack(regularizer: Regularizer) -> None:
    """Refuse options for which Trainer's rows hold too little.

    Raises:
        BadInput: names the option.
    """
    perturbation: Any = regularizer.perturbation
    if regularizer.over != "vocabulary":
        raise BadInput("over=labels needs the label words of a task, which Trainer's rows do not name; leave it out")
    if getattr(perturbation, "where", "input") != "input":
        raise BadInput(f"where={perturbation.where}: Trainer's model holds the prompt inside; perturb the input only")
    if not getattr(perturbation, "template", True):
        raise BadInput("template=false: Trainer's rows do not say which words are the template's; leave it out")
    if getattr(perturbation, "column", "all").isdigit():
        raise BadInput(f"column={perturbation.column}: Trainer's rows have no columns; leave it out")
    if getattr(perturbation, "each", False):
        raise BadInput("each=true (freelb) runs backward after every step, Trainer only once; choose adv-emb")
