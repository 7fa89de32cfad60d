"""PEFT's decoder under the Hugging Face Trainer, one step at a time: a side of `shared_prefix.py`."""

import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from against_peft.peer import Turns


class UnderTrainer:
    """PEFT's model in the Trainer's own loop, which is held between steps, with the Trainer's defaults.

    A step is all that the Trainer does from the end of one step to the end of the next: fetching, padding, forward and
    backward pass, clipping, optimiser, schedule, callbacks. Only one thread computes at a time.

    Args:
        peft: the side that trains the same model by a plain loop; gives the model and pads rows.
        batches: of each step.
    """

    def __init__(self, peft: Any, batches: Sequence[Any]):
        rows = [(batch, row) for batch in batches for row in range(len(batch.ids))]
        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(batches[0].ids), max_steps=len(batches),
            train_sampling_strategy="sequential", save_strategy="no", report_to="none", disable_tqdm=True,
            remove_unused_columns=False, use_cpu=True, dataloader_pin_memory=False,
        )  # fmt: skip
        self.turns = Turns()
        self.trainer = Trainer(
            model=peft.model,
            args=arguments,
            train_dataset=rows,  # pyright: ignore[reportArgumentType]  (a list is a data set, too)
            data_collator=lambda chosen: peft.inputs(chosen[0][0].select(torch.tensor([row for _, row in chosen]))),
            callbacks=[self.turns],
        )
        self.trainer.remove_callback(PrinterCallback)
        self.thread = threading.Thread(target=self.trainer.train, daemon=True)
        self.thread.start()
        self.turns.held.acquire()

    def step(self, batch: Any) -> None:
        """The Trainer's next step, over its own next batch, which is the same."""
        self.turns.go.release()
        self.turns.held.acquire()

    def close(self) -> None:
        """Let the Trainer end."""
        self.turns.is_over = True
        self.turns.go.release()
        self.thread.join()
