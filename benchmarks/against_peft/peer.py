"""PEFT's prompt tuning and P-tuning under transformers' Seq2SeqTrainer, one optimiser step at a time."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from benchmarks.against_peft.rows import twin
from softprompt.data import Examples, Ragged
from softprompt.prompts.trainable import TrainablePrompt
from torch import Tensor
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


@final
class Turns(TrainerCallback):
    """Holds a Trainer after each step until it is told to go on."""

    def __init__(self) -> None:
        self.go, self.held = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Everything is prepared: wait for the first step."""
        self._wait(control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A step has ended, optimiser and schedule included."""
        self._wait(control)

    def _wait(self, control: TrainerControl) -> None:
        self.held.release()
        self.go.acquire()
        control.should_training_stop = self.is_over


@final
class Peer:
    """PEFT under the Trainer, with the Trainer's defaults: AdamW, clipping at 1, linear decay, the model in train mode.

    The Trainer runs its own loop in a thread of its own, and is held between steps, so that what `step` takes is all
    that the Trainer does from the end of one step to the end of the next: fetching, collating, forward and backward
    pass, clipping, optimiser, schedule, callbacks. Only one thread computes at a time.

    PEFT 0.21 gives an encoder-decoder 2n vectors unless told `num_transformer_submodules=1`, and uses the first n:
    told here, so that both sides train the same numbers.

    Args:
        model: the frozen model; its weights are shared, not copied.
        tokenizer: pads.
        prompt: whose initial vectors, and whose MLP, this starts from.
        examples: rows.
        batches: which rows come together, in this order.
        pad_to: tokens that every row is padded to; None pads to the longest of the batch.
        dropout: whether the frozen model's dropout is on, as the Trainer leaves it.
        lr: learning rate at its peak.
        device: where.
        precision: "fp32", "tf32" or "bf16" (autocast).
        folder: the Trainer's; nothing is kept in it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: TrainablePrompt,
        examples: Examples,
        batches: Sequence[Sequence[int]],
        *,
        pad_to: int | None,
        dropout: bool,
        lr: float,
        device: torch.device,
        precision: str,
        folder: Path,
    ):
        self.model = tuned(twin(model, None if dropout else 0.0), prompt)
        self.dropout, self.device, self.precision = dropout, device, precision
        # Padded here, as where it is done while tokenising: the collator's max_length would pad the answers as well.
        self.rows = [row_of(examples, i, pad_to, tokenizer.pad_token_id) for rows in batches for i in rows]
        self.collate = DataCollatorForSeq2Seq(tokenizer, padding="longest")
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=len(batches[0]),
            max_steps=len(batches),
            learning_rate=lr,
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type != "cpu",
            bf16=precision == "bf16",
            tf32=precision == "tf32" if device.type == "cuda" else None,
        )
        self.turns = Turns()
        self.trainer = Seq2SeqTrainer(
            model=self.model,
            args=arguments,
            train_dataset=self.rows,  # pyright: ignore[reportArgumentType]  (a list is a data set, too)
            data_collator=self.collate,
            callbacks=[self.turns],
        )
        self.trainer.remove_callback(PrinterCallback)
        self.thread: threading.Thread | None = None
        self.fault: BaseException | None = None

    def step(self) -> None:
        """The Trainer's next step, from the end of the last."""
        if self.thread is None:
            raise RuntimeError("the Trainer is not started")
        self.turns.go.release()
        self._until_held()

    def start(self) -> None:
        """Let the Trainer prepare itself, up to its first step."""
        self.thread = threading.Thread(target=self._train, daemon=True)
        self.thread.start()
        self._until_held()

    def close(self) -> None:
        """Let the Trainer end."""
        self.turns.is_over = True
        self.turns.go.release()
        if self.thread is not None:
            self.thread.join()

    def _until_held(self) -> None:
        self.turns.held.acquire()
        if self.fault is not None:
            raise self.fault

    def _train(self) -> None:
        try:
            self.trainer.train()
        except BaseException as fault:
            self.fault = fault
        finally:
            self.turns.held.release()

    def pass_over(self, rows: Sequence[dict[str, list[int]]]) -> Tensor:
        """Forward and backward over some rows, as the Trainer's step has them; the loss."""
        batch = {name: values.to(self.device) for name, values in self.collate(list(rows)).items()}
        bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = self.model(**batch).loss
        loss.backward()
        return loss.detach()

    def loss_and_gradient(self, rows: Sequence[int]) -> tuple[float, Tensor]:
        """The loss of some rows without dropout, and its gradient at the trained vectors."""
        self.model.train(not self.dropout)
        self.model.zero_grad()
        loss = self.pass_over([self.rows[i] for i in rows])
        gradient = self.model.prompt_encoder["default"].embedding.weight.grad.clone()
        self.model.zero_grad()
        return float(loss), gradient

    def probe(self, rows: Sequence[int]) -> None:
        """A pass in the mode that it is trained in, whose gradients are thrown away."""
        self.model.train()
        self.pass_over([self.rows[i] for i in rows])
        self.model.zero_grad()


def row_of(examples: Examples, index: int, pad_to: int | None, pad_id: int) -> dict[str, list[int]]:
    """A row as the Trainer's collator takes it; its text padded to `pad_to` tokens, if told."""
    assert isinstance(examples.targets, Ragged)
    ids = examples.inputs.row(index).tolist()
    pads = 0 if pad_to is None else pad_to - len(ids)
    mask = [1] * len(ids) + [0] * pads
    return {"input_ids": ids + [pad_id] * pads, "attention_mask": mask, "labels": examples.targets.row(index).tolist()}


def tuned(model: Any, prompt: TrainablePrompt) -> Any:
    """The model under PEFT, its prompt beginning as the prompt does."""
    from peft import PromptEncoderConfig, PromptTuningConfig, TaskType, get_peft_model

    n, e = prompt.initial.shape
    common: dict[str, Any] = {
        "task_type": TaskType.SEQ_2_SEQ_LM,
        "num_virtual_tokens": n,
        "num_transformer_submodules": 1,
    }
    if prompt.method.name == "p-tuning":
        config = PromptEncoderConfig(encoder_reparameterization_type="MLP", encoder_hidden_size=e, **common)
    elif prompt.method.name == "prompt-tuning":
        config = PromptTuningConfig(**common)
    else:
        raise ValueError(f"PEFT has no {prompt.method.name!r}")
    peer: Any = get_peft_model(model, config)
    encoder = peer.prompt_encoder["default"]
    with torch.no_grad():
        encoder.embedding.weight.copy_(prompt.initial)
    if prompt.method.name == "p-tuning":
        network: Any = prompt.reparameterization
        encoder.mlp_head.load_state_dict(network.layers.state_dict())
    return peer
