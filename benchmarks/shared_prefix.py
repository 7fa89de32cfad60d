"""What sharing the prompt saves on a decoder: PEFT with a plain loop and ours, in turns in one process, by CPU time.

    SOFTPROMPT_DATA_ROOT=DATA python benchmarks/shared_prefix.py [--model FOLDER]      # about half an hour
    python benchmarks/shared_prefix.py --quick                                         # does everything run?
    python benchmarks/shared_prefix.py --fill docs/results/speed.md                    # its table, between the marks

Same weights, same real rows, same batches, same initial vectors, one thread. A step is forward pass, backward pass and
AdamW. PEFT computes as it is used: rows padded to the longest of the batch (or to 256), logits at every position, the
loss from its own model, by a plain loop and (`--trainer`) in the loop of the Hugging Face Trainer. A prediction is the
log-probability of the first token of each label for each row: one pass a batch, for PEFT with the logits of all
positions, as `model(...)` gives them. Every ratio is the median of ratios of neighbouring turns. Process time does not
count what other programs take, but they do take the caches. Cells that a run does not measure stay in the file.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "shared_prefix.json"
MARKS = "<!-- benchmarks/shared_prefix.py: begin -->\n", "<!-- benchmarks/shared_prefix.py: end -->"
TASKS, LENGTHS, BATCH = ("glue/sst2", "glue/rte", "super_glue/boolq"), (10, 100), 16
# PEFT pads rows to it where it does not pad to the longest, as in the published recipes.
MAX_LENGTH = 256


def main() -> None:
    """Measure, or write the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a decoder: built-in name, hub id or folder")
    parser.add_argument("--turns", type=int, default=3, help="steps of each side that are timed")
    parser.add_argument("--quick", action="store_true", help="one lab task, one turn, the built-in lab-gpt")
    parser.add_argument("--chat", action="store_true", help="texts in the chat template of the tokenizer")
    parser.add_argument("--trainer", action="store_true", help="PEFT under the Trainer as one more side")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--fill", type=Path, help="page between whose marks the table is written")
    arguments = parser.parse_args()
    if arguments.fill:
        fill(arguments.fill, table(json.loads(arguments.out.read_text())), MARKS)
        return
    if arguments.quick:
        arguments.model, arguments.turns, arguments.out = "lab-gpt", 1, None
        arguments.tasks, arguments.lengths = ["lab/opinion"], arguments.lengths[:1]
    result = measure(arguments)
    if arguments.out is not None and arguments.out.exists():
        measured = {(one["task"], one["prompt"]) for one in result["cells"]}
        before = json.loads(arguments.out.read_text())["cells"]
        result["cells"] = [*(one for one in before if (one["task"], one["prompt"]) not in measured), *result["cells"]]
    print(table(result))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the environment and the ratios of every cell."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch
    from softprompt.backbones import load_backbone

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    backbone = load_backbone(arguments.model, answers="chat" if arguments.chat else "tokens")
    cells = [
        # The library is the faster one when the model is loaded, so runs may differ in it.
        {**cell(backbone, task, n, arguments.turns, with_trainer=arguments.trainer), "products": backbone.products}
        for task in arguments.tasks
        for n in arguments.lengths
    ]
    packages = {package: version(package) for package in ("torch", "transformers", "peft")}
    return {
        "device": processor(), "threads": 1, "batch": BATCH, "model": Path(arguments.model).name,
        # Not what the backbone has now: the sides of a turn switch it.
        "engine": "shared", **packages, "cells": cells,
    }  # fmt: skip


def cell(backbone: Any, name: str, n: int, turns: int, *, with_trainer: bool = False) -> dict[str, Any]:
    """Return the ratios of one task and one prompt length."""
    import torch
    from softprompt.data import load_rows, split_rows
    from softprompt.inference.decoding import label_ids
    from softprompt.inference.rows import examples_for
    from softprompt.tasks import TASKS as KNOWN

    task = KNOWN[name]
    examples = examples_for(
        backbone, task, split_rows(task, load_rows(task, os.environ.get("SOFTPROMPT_DATA_ROOT"))).train, n
    )
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(examples), generator=draw)[: BATCH * turns].tolist()
    batches = [examples.batch(order[i : i + BATCH], 0, backbone.pad_id).trimmed() for i in range(0, len(order), BATCH)]
    words = backbone.word_vectors
    initial = words[torch.randint(len(words), (n,), generator=draw)].float()
    sides = {
        "ours": Ours(backbone, initial, "shared"),
        "reference": Ours(backbone, initial, "reference"),
        "peft": Peft(backbone, initial, None),
    }
    if (name, n) == (TASKS[0], LENGTHS[0]) and backbone.answers != "chat":
        sides["peft256"] = Peft(backbone, initial, MAX_LENGTH)
    labels = label_ids(backbone, task)
    title = f"{name} chat" if backbone.answers == "chat" else name
    found: dict[str, Any] = {"task": title, "prompt": n, **shape_of(batches)}
    found["same"] = refuse_other_gradients(sides, batches[0])
    if with_trainer:
        from under_trainer import UnderTrainer

        sides["trainer"] = UnderTrainer(Peft(backbone, initial, None, apart(backbone.model)), batches)
    found["train"] = in_turns(sides, [lambda side, b=batch: side.step(b) for batch in batches])
    for name_of_side in ("peft256", "trainer"):
        sides.pop(name_of_side, None)
    with torch.no_grad():
        found["predict"] = in_turns(sides, [lambda side, b=batch: side.scores(b, labels) for batch in batches])
    found["kept"] = {name: side.kept(batches[0]) for name, side in sides.items()}
    print(json.dumps(found), flush=True)
    return found


def apart(model: Any) -> Any:
    """The model over the same weights: a Trainer puts its own into training mode, which must not reach other sides."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def shape_of(batches: Sequence[Any]) -> dict[str, float]:
    """Return the mean length of texts, and the mean of the longest of each batch."""
    lengths = [batch.mask.sum(1) for batch in batches]
    return {
        "tokens": round(float(sum(x.float().mean() for x in lengths) / len(lengths)), 1),
        "longest": round(float(sum(x.max() for x in lengths) / len(lengths)), 1),
    }


def refuse_other_gradients(sides: dict[str, Any], batch: Any) -> float:
    """Refuse sides that do not compute the same loss and the same gradient; return the largest difference."""
    results = {name: side.gradient(batch) for name, side in sides.items()}
    loss, gradient = results["reference"]
    worst = 0.0
    for name, (other, slope) in results.items():
        difference = max(abs(other - loss) / abs(loss), float((slope - gradient).norm() / gradient.norm()))
        if difference > 1e-2:
            raise RuntimeError(f"{name} does not compute what the reference computes: {difference:.1e}")
        worst = max(worst, difference)
    return worst


def in_turns(sides: dict[str, Any], work: Sequence[Callable[[Any], object]]) -> dict[str, Any]:
    """Return seconds of each side, and the ratios to ours."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in work:
        for name, side in sides.items():
            begun = time.process_time()
            turn(side)
            seconds[name].append(time.process_time() - begun)
    ratios = {
        name: [theirs / ours for theirs, ours in zip(values, seconds["ours"], strict=True)]
        for name, values in seconds.items()
        if name != "ours"
    }
    return {
        "seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "ratios": {name: [round(x, 3) for x in (statistics.median(r), min(r), max(r))] for name, r in ratios.items()},
    }


class Ours:
    """A step of ours: one prompt, AdamW, one of the two engines of a decoder."""

    def __init__(self, backbone: Any, initial: Any, engine: str):
        import torch

        self.backbone, self.engine = backbone, engine
        self.prompt = initial.clone().requires_grad_()
        self.optimizer = torch.optim.AdamW([self.prompt], lr=1e-3)

    def _loss(self, batch: Any) -> Any:
        from softprompt.losses import task_losses
        from softprompt.prompts.batch import PromptBatch

        self.backbone.engine = self.engine
        return task_losses(self.backbone.logits(PromptBatch.stack([self.prompt]), batch), batch.targets).mean()

    def step(self, batch: Any) -> None:
        """One optimiser step."""
        self._loss(batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient(self, batch: Any) -> tuple[float, Any]:
        """The loss and its gradient."""
        import torch

        loss = self._loss(batch)
        return loss.item(), torch.autograd.grad(loss, self.prompt)[0]

    def scores(self, batch: Any, labels: Any) -> Any:
        """The log-probability of each label's first token."""
        from softprompt.prompts.batch import PromptBatch

        self.backbone.engine = self.engine
        prompt_batch = PromptBatch.stack([self.prompt.detach()])
        return self.backbone.label_scores(prompt_batch, batch, labels, normalize="first")

    def kept(self, batch: Any) -> float:
        """Megabytes that a step keeps for its backward pass."""
        return _kept(self.backbone.model, lambda: self._loss(batch))


class Peft:
    """A step of PEFT's prompt tuning: rows padded to the longest or to a length, logits at every position."""

    def __init__(self, backbone: Any, initial: Any, pad_to: int | None, model: Any = None):
        import torch
        from peft import PromptTuningConfig, TaskType, get_peft_model

        self.backbone, self.pad_to = backbone, pad_to
        config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(initial))
        self.model: Any = get_peft_model(model or backbone.model, config, adapter_name=f"p{id(self)}")
        self.embedding = self.model.prompt_encoder[self.model.active_adapter].embedding.weight
        self.embedding.data.copy_(initial)
        self.optimizer = torch.optim.AdamW([self.embedding], lr=1e-3)

    def inputs(self, batch: Any) -> dict[str, Any]:
        """Rows of text and answer, padded on the right, and the answer's tokens as labels."""
        import torch

        answer = (batch.targets >= 0).sum(1)
        lengths = batch.mask.sum(1) + answer
        width = int(lengths.max()) if self.pad_to is None else max(self.pad_to, int(lengths.max()))
        ids = torch.full((len(lengths), width), self.backbone.pad_id)
        labels = torch.full_like(ids, -100)
        for row, (text, mask, target) in enumerate(zip(batch.ids, batch.mask, batch.targets, strict=True)):
            whole = torch.cat([text[mask], target[target >= 0]])
            ids[row, : len(whole)] = whole
            labels[row, int(mask.sum()) : len(whole)] = target[target >= 0]
        return {"input_ids": ids, "attention_mask": torch.arange(width) < lengths[:, None], "labels": labels}

    def _loss(self, batch: Any) -> Any:
        inputs = self.inputs(batch)
        return self.model(**inputs).loss

    def step(self, batch: Any) -> None:
        """One optimiser step."""
        self._loss(batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient(self, batch: Any) -> tuple[float, Any]:
        """The loss and its gradient, each row weighing the same as in ours."""
        import torch
        from softprompt.losses import task_losses

        logits = self._answers(self.inputs(batch), batch)
        loss = task_losses(logits, batch.targets).mean()
        return loss.item(), torch.autograd.grad(loss, self.embedding)[0]

    def _answers(self, inputs: dict[str, Any], batch: Any) -> Any:
        import torch

        logits = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        first = logits.shape[1] - inputs["input_ids"].shape[1] + batch.mask.sum(1, keepdim=True) - 1
        return logits.take_along_dim((first + torch.arange(batch.targets.shape[1]))[:, :, None], 1)

    def scores(self, batch: Any, labels: Any) -> Any:
        """The log-probability of each label's first token."""
        import dataclasses

        import torch

        one = dataclasses.replace(batch, targets=torch.full_like(batch.targets[:, :1], labels[0][0]))
        logits = self._answers(self.inputs(one), one)
        return logits.log_softmax(-1)[:, 0, [label[0] for label in labels]]

    def kept(self, batch: Any) -> float:
        """Megabytes that a step keeps for its backward pass."""
        return _kept(self.backbone.model, lambda: self._loss(batch))


def _kept(model: Any, loss_of: Callable[[], Any]) -> float:
    import torch

    permanent = {values.untyped_storage().data_ptr() for values in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(values: Any) -> Any:
        storage = values.untyped_storage()
        if storage.data_ptr() not in permanent:
            kept[storage.data_ptr()] = storage.nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        loss = loss_of()
    total = sum(kept.values())
    del loss
    return round(total / 1e6, 1)


def table(result: dict[str, Any]) -> str:
    """The ratios as Markdown: median, and smallest to largest of the turns."""
    lines = [
        f"{result['device']}, {result['model']}, one thread, batch {result['batch']}, torch {result['torch']}, "
        f"transformers {result['transformers']}, PEFT {result['peft']}, engine {result['engine']}.",
        "",
        "| rows | tokens, mean (longest of a batch) | prompt | step: PEFT / ours | PEFT + Trainer / ours | "
        "PEFT padded to 256 / ours | reference / ours | prediction: PEFT / ours | reference / ours | "
        "kept: ours / PEFT | products |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in result["cells"]:
        train, predict, kept = one["train"]["ratios"], one["predict"]["ratios"], one["kept"]
        cells = [
            one["task"].split("/")[-1], f"{one['tokens']:.0f} ({one['longest']:.0f})", one["prompt"],
            *(ratio_text(train.get(name)) for name in ("peft", "trainer", "peft256", "reference")),
            *(ratio_text(predict[name]) for name in ("peft", "reference")),
            f"{kept['ours'] / kept['peft']:.2f}", one["products"] or "torch",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def ratio_text(values: Sequence[float] | None) -> str:
    """Return a median with its range, and nothing for a side that was not timed."""
    if values is None:
        return ""
    median, least, most = values
    return f"{median:.2f} ({least:.2f} to {most:.2f})"


def fill(page: Path, text: str, marks: tuple[str, str]) -> None:
    """Write a table between the marks of a page."""
    begin, end = marks
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}{text}{end}{after}")


def processor() -> str:
    """Return the name of this machine's processor."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
