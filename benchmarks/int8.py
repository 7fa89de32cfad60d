"""Frozen linear layers in int8 against float32: what they save, what they change, and whether it shows in accuracy.

    python benchmarks/int8.py --data-root DATA [--parts step gradient curve seeds] [--models lab-t5-small MiniLM-L6]

Parts:
    step      thread time of a training step in float32 over that in int8, interleaved, one thread, batch 16: a T5 of
              t5-small's shape with random weights (92 tokens on average, by both engines), and the MiniLM encoder
    gradient  cosine of the prompt's gradient in int8 with that in float32, on 20 batches of 16 training rows, of the
              prompt that training in float32 left and of ten random word vectors in its place
    curve     mean task loss over 50 steps and five seeds, trained in either
    seeds     test accuracy of five seeds trained in either, and of those trained in int8 when they are used in float32

`curve` and `seeds` train what is missing under --runs; a run that was stopped goes on. Each part replaces its own entry
in results/int8.json. lab-t5-small is narrower than what int8 is offered for: here its layers are in int8 all the same.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from softprompt.backbones import AbstractBackbone, load_backbone
from softprompt.backbones.fast import int8 as _int8
from softprompt.data import load_rows, split_rows
from softprompt.inference.evaluate import evaluate
from softprompt.inference.rows import examples_for
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.prompt import SoftPrompt
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.tasks import TASKS, Task
from softprompt.training import Run, resume, train
from softprompt.training._step import backward
from torch.nn.functional import cross_entropy

from dropout import t5_small_shape

PAIRS, BATCHES, WINDOW, SEEDS = 9, 20, 50, 5
RESULT = Path(__file__).parent / "results" / "int8.json"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained on a model in either form."""

    task: str
    model: str
    method: str
    lr: float
    steps: int

    def folder(self, runs: str, quantize: str | None) -> Path:
        """Where its run is kept."""
        return Path(runs) / f"{Path(self.model).name}-{self.task.replace('/', '-')}-{quantize or 'float32'}"

    def run(self, arguments: argparse.Namespace, quantize: str | None) -> Run:
        """Its run, trained to the end."""
        folder = self.folder(arguments.runs, quantize)
        if (folder / "run.json").exists():
            return resume(folder, device="cpu", progress=True)
        return train(
            self.task,
            self.model,
            prompts=[
                PromptSettings(method=self.method, units="raw", lr=self.lr, seeds=Seeds.all(seed))
                for seed in range(SEEDS)
            ],
            settings=TrainSettings(steps=self.steps, eval_every=100, eval_rows=500, max_length=128),
            output=folder,
            data_root=arguments.data_root,
            device="cpu",
            quantize=quantize,
            progress=True,
        )

    def declared(self) -> Task:
        """The task."""
        return TASKS[self.task]


CASES = {
    "lab-t5-small": (
        Case(task="lab/entailment", model="lab-t5-small", method="prompt-tuning", lr=0.1, steps=250),
        Case(task="lab/weekend", model="lab-t5-small", method="prompt-tuning", lr=0.1, steps=250),
    ),
    "MiniLM-L6": (Case(task="glue/sst2", model="minilm", method="ept-star", lr=0.3, steps=400),),
}


def t5_rows() -> TextBatch:
    """16 rows of random tokens, lengths lognormal around 92 (sigma 0.6, 8 to 256), three label tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.exp(torch.randn(16, generator=generator) * 0.6 + 4.34)
    lengths = (lengths * 92 / lengths.mean()).clamp(8, 256).long()
    ids = torch.randint(1000, 20000, (16, int(lengths.max())), generator=generator)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return TextBatch(ids, mask, torch.zeros(16, dtype=torch.long), torch.randint(0, 2000, (16, 3), generator=generator))


def encoder_rows() -> TextBatch:
    """16 rows of 32 random tokens."""
    ids = torch.randint(1000, 20000, (16, 32), generator=torch.Generator().manual_seed(0))
    owner = torch.zeros(16, dtype=torch.long)
    return TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), owner, owner[:, None])


def _step(backbone: AbstractBackbone, prompt: TrainablePrompt, batch: TextBatch) -> float:
    prompt.zero_grad(set_to_none=True)
    start = time.thread_time()
    backward(backbone, [prompt], batch, [0])
    return time.thread_time() - start


def step_row(name: str, exact: AbstractBackbone, rounded: AbstractBackbone, batch: TextBatch) -> dict[str, Any]:
    """Seconds in float32 over seconds in int8, pair by pair."""
    head = (2, exact.hidden_size) if exact.kind == "encoder" else None
    prompt = TrainablePrompt.build(PromptSettings(method="prompt-tuning"), uniform(), exact.embeddings.weight, head)
    for backbone in (exact, rounded):
        _step(backbone, prompt, batch)  # warms up
    pairs = [(_step(exact, prompt, batch), _step(rounded, prompt, batch)) for _ in range(PAIRS)]
    ratios = sorted(a / b for a, b in pairs)
    row = {"model": name, "engine": exact.engine, "ratio": statistics.median(ratios)}
    row |= {"least": ratios[0], "most": ratios[-1], "pairs": PAIRS}
    seconds = {"float32 s": statistics.median(a for a, _ in pairs), "int8 s": statistics.median(b for _, b in pairs)}
    print(f"{name:16} {exact.engine:10} float32 / int8 {row['ratio']:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return row | seconds


def steps() -> list[dict[str, Any]]:
    """The rows of the part `step`."""
    rows = []
    for engine in ("packed", "reference"):
        exact, rounded = (_t5_by(engine) for _ in range(2))
        rounded.to_int8()
        rows.append(step_row("t5-small shape", exact, rounded, t5_rows()))
    exact, rounded = (load_backbone("minilm", device="cpu", quantize=quantize) for quantize in (None, "int8"))
    return [*rows, step_row("MiniLM-L6", exact, rounded, encoder_rows())]


def _t5_by(engine: str) -> AbstractBackbone:
    torch.manual_seed(0)
    return t5_small_shape(engine)


def gradient(backbone: AbstractBackbone, prompt_batch: PromptBatch, batch: TextBatch) -> torch.Tensor:
    """Of the mean task loss, at the prompt vectors."""
    vectors = prompt_batch.vectors.clone().requires_grad_()
    assert batch.targets is not None
    logits = backbone.logits(replace(prompt_batch, vectors=vectors), batch).flatten(0, 1)
    (gradients,) = torch.autograd.grad(cross_entropy(logits.float(), batch.targets.flatten()), vectors)
    return gradients.flatten()


def gradients(case: Case, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the part `gradient`."""
    prompt = case.run(arguments, None).prompt(0)
    exact, rounded = (_loaded(case, prompt, quantize) for quantize in (None, "int8"))
    prompt_batch = PromptBatch.of(prompt)
    words = torch.randint(
        5, len(exact.word_vectors), prompt_batch.vectors.shape[:2], generator=torch.Generator().manual_seed(0)
    )
    rows = []
    for at, vectors in (("trained prompt", prompt_batch.vectors), ("word vectors", exact.word_vectors[words].clone())):
        here = replace(prompt_batch, vectors=vectors)
        pairs = [
            (gradient(exact, here, batch), gradient(rounded, here, batch))
            for batch in _batches(case, prompt, exact, arguments)
        ]
        cosines = sorted(torch.cosine_similarity(a, b, dim=0).item() for a, b in pairs)
        sizes = [(b.norm() / a.norm()).item() for a, b in pairs]
        whole = torch.cosine_similarity(*(torch.stack(side).mean(0) for side in zip(*pairs, strict=True)), dim=0)
        row = {"model": Path(case.model).name, "task": case.task, "engine": exact.engine, "at": at}
        row |= {"cosine": statistics.median(cosines), "least": cosines[0], "most": cosines[-1], "batches": BATCHES}
        row |= {"cosine of the mean gradient": whole.item(), "length": statistics.median(sizes)}
        print(f"{case.task:16} {at:16} cosine {row['cosine']:.4f} ({cosines[0]:.4f} to {cosines[-1]:.4f})")
        rows.append(row)
    return rows


def _loaded(case: Case, prompt: SoftPrompt, quantize: str | None) -> AbstractBackbone:
    return load_backbone(case.model, answers=prompt.provenance.answers, device="cpu", quantize=quantize)


def _batches(
    case: Case, prompt: SoftPrompt, backbone: AbstractBackbone, arguments: argparse.Namespace
) -> Iterator[TextBatch]:
    task = Task.from_json(prompt.provenance.task or {})
    rows = split_rows(task, load_rows(task, arguments.data_root, 0)).train.select(range(16 * BATCHES))
    examples = examples_for(backbone, task, rows, prompt.length)
    for start in range(0, 16 * BATCHES, 16):
        owner = torch.zeros(16, dtype=torch.long)
        yield examples.batch(list(range(start, start + 16)), owner, backbone.pad_id)


def curve(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """The row of the part `curve`."""
    row: dict[str, Any] = {"model": Path(case.model).name, "task": case.task, "window": WINDOW}
    for quantize in (None, "int8"):
        run = case.run(arguments, quantize)
        losses = torch.tensor([_losses(run.folder / result.prompt / "metrics.jsonl") for result in run.results])
        row[quantize or "float32"] = losses.unfold(1, WINDOW, WINDOW).mean((0, 2)).tolist()
    for form in ("float32", "int8"):
        print(f"{case.task:16} {form:8} loss", *(f"{loss:.3f}" for loss in row[form]))
    return row


def _losses(path: Path) -> list[float]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def seeds(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """The row of the part `seeds`."""
    exact, rounded = (case.run(arguments, quantize) for quantize in (None, "int8"))
    scores: dict[str, list[float]] = {
        "float32": [result.metrics["test"]["accuracy"] for result in exact.results],
        "int8": [result.metrics["test"]["accuracy"] for result in rounded.results],
    }
    prompt = exact.prompt(0)
    backbone = _loaded(case, prompt, None)
    scores["int8, used in float32"] = [
        evaluate(rounded.prompt(i), model=backbone, data_root=arguments.data_root).metrics["accuracy"]
        for i in range(SEEDS)
    ]
    row: dict[str, Any] = {"model": Path(case.model).name, "task": case.task, "method": case.method}
    row |= {"lr": case.lr, "steps": case.steps, "seeds": list(range(SEEDS)), "engine": backbone.engine}
    for name, values in scores.items():
        row[name] = {"accuracy": values, "mean": statistics.mean(values), "std": statistics.stdev(values)}
        print(f"{case.task:16} {name:22} {row[name]['mean']:.4f} +- {row[name]['std']:.4f}")
    return row


def main() -> None:
    """Run the parts, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--parts", nargs="+", default=["step", "gradient", "curve", "seeds"])
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--runs", default="runs/int8")
    parser.add_argument("--output", default=str(RESULT))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    # As offered for the steps; below for what a narrow model can tell as well.
    output = Path(arguments.output)
    results: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    if "step" in arguments.parts:
        results["step"] = {"threads": 1, "batch_size": 16, "rows": steps()}
    _int8.LEAST_WIDTH = 1
    for part in ("gradient", "curve", "seeds"):
        if part not in arguments.parts:
            continue
        rows: dict[str, Any] = results.get(part, {})
        for case in (case for model in arguments.models for case in CASES[model]):
            rows[f"{Path(case.model).name} {case.task}"] = {"gradient": gradients, "curve": curve, "seeds": seeds}[
                part
            ](case, arguments)
            results[part] = rows
            output.write_text(json.dumps(results, indent=1) + "\n")
    output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
