"""What it costs that every request has a prompt of its own: ratios of one run, the sides in turns, by CPU time.

    python benchmarks/serving.py [--model smollm2] [--encoder lab-bert]      # three minutes on a calm machine
    python benchmarks/serving.py --quick                                     # does everything run?

- **mixed**: 32 requests to 32 prompts against 32 requests to one prompt, over the same rows. A decoder keeps compiled
  prompts; "not compiled" are the same requests where it keeps none, so that each pass computes its prompts.
- **peft**: the same 32 requests to 32 adapters of one PEFT model: `set_adapter` and a forward pass each, the
  log-probability of the first token of each label from the logits, as `model(...)` gives them.
- **long**: both again with prompts of 100 vectors.
- **overhead**: one request at a time to `/classify` at 127.0.0.1 over the pass of its row, also in wall time.
- **bank**: prompts of EPT's size (one vector, ten times) from one packed file and from folders: CPU time, and how much
  the process grows.

Prompts are words of the model, as trained ones are at the beginning. Writes results/serving.json.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from softprompt import load_backbone
from softprompt.backbones import AbstractBackbone
from softprompt.inference.scoring import Scoring
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.serving import Admission, BankFile, Engine, Limits, PromptBank, PromptFolder, Work, write_bank
from softprompt.serving.prefixes import opening_of
from softprompt.store import _folder, save_prompt
from softprompt.tasks import TASKS, Source, Task, in_lines, open_ended
from softprompt.tasks.files import records

HERE = Path(__file__).parent
RESULT, ROWS = HERE / "results" / "serving.json", HERE.parent / "examples" / "reviews" / "test.csv"
REQUESTS, VECTORS, LONG = 32, 10, 100
TOGETHER = Limits(spread=1e9)
TASK = Task(name="reviews", source=Source(), template="review: {text}", labels=("negative", "positive"))


def main() -> None:
    """Measure everything, print it, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a decoder: built-in name, hub id or folder")
    parser.add_argument("--encoder", default="lab-bert", help="an encoder, which answers by linear heads")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each side")
    parser.add_argument("--prompts", type=int, default=10_000, help="prompts of the bank")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["decoder", "long", "encoder", "minilm", "overhead", "bank"],
        help="what to measure",
    )
    parser.add_argument("--quick", action="store_true", help="lab-gpt, one turn, 50 prompts; nothing is written")
    given = parser.parse_args()
    if given.quick:
        given.model, given.turns, given.prompts = "lab-gpt", 1, 50
    torch.set_num_threads(1)
    # Parts that a run does not measure stay in the file.
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() and not given.quick else {}
    for part in given.parts:
        result[part] = measured(part, given)
        if not given.quick:
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measured(part: str, given: argparse.Namespace) -> dict[str, Any]:
    """One part of the result, and where it was measured."""
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1, **versions}
    if part in ("decoder", "long", "bank"):
        decoder = load_backbone(given.model, device="cpu")
        common = {"model": given.model, "engine": decoder.engine, "machine": machine}
        if part == "bank":
            return {**common, **bank(decoder, given.prompts)}
        vectors = LONG if part == "long" else VECTORS
        sizes = {"requests": REQUESTS, "vectors": vectors, "turns": given.turns}
        return {**common, **sizes, **against_others(decoder, vectors, given.turns)}
    encoder = load_backbone("minilm" if part == "minilm" else given.encoder, device="cpu", answers="linear-head")
    common = {"model": "all-MiniLM-L6-v2" if part == "minilm" else given.encoder, "machine": machine}
    if part == "overhead":
        return {**common, **overhead(encoder, 20 if given.quick else 200)}
    return {
        **common,
        "requests": REQUESTS,
        "vectors": VECTORS,
        "turns": given.turns,
        **against_one(encoder, VECTORS, given.turns),
    }


def texts(count: int) -> list[str]:
    """The first reviews of the example."""
    return [record.values["sentence"] for record in list(records(ROWS, ""))[:count]]


def drawn(backbone: AbstractBackbone, count: int, vectors: int, repeats: int = 1) -> dict[str, SoftPrompt]:
    """Prompts whose vectors are words of the model, drawn from one seed; with heads where it answers by one."""
    draw = torch.Generator().manual_seed(0)
    task = TASK if backbone.kind != "decoder" else open_ended(in_lines(TASK))
    if backbone.name.startswith("lab-"):
        # Their tokenizers know the words of the laboratory alone.
        task = dataclasses.replace(task, labels=TASKS["lab/opinion"].labels)
    # Scored by first tokens, as a peer scores them from one pass.
    scoring = Scoring() if backbone.answers == "linear-head" else Scoring(normalize="first")
    provenance = Provenance("ept", backbone.identity(), backbone.answers, task.to_json(), scoring=scoring.to_json())
    words = backbone.word_vectors.detach().float()
    prompts = {}
    for number in range(count):
        chosen = words[torch.randint(len(words), (vectors,), generator=draw)].clone()
        head = LinearHead(torch.randn(2, backbone.hidden_size, generator=draw), torch.zeros(2))
        prompts[f"p{number}"] = SoftPrompt(
            chosen, provenance, repeats, head if backbone.answers == "linear-head" else None
        )
    return prompts


def filled(backbone: AbstractBackbone, prompts: dict[str, SoftPrompt]) -> PromptBank:
    """A bank of these prompts."""
    made = PromptBank(Admission(backbone))
    if refused := made.put(prompts.items()):
        raise SystemExit(f"{refused[0].name}: {refused[0].reason}")
    return made


def in_turns(turns: int, *sides: Callable[[], Any]) -> list[list[float]]:
    """CPU seconds of each side in each turn; each runs once before."""
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(-1, turns):
        for side, kept in zip(sides, seconds, strict=True):
            began = time.process_time()
            side()
            if turn >= 0:
                kept.append(time.process_time() - began)
    return seconds


def ratio(of: list[float], to: list[float]) -> float:
    """The median of the ratios of neighbouring turns."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def works(engine: Engine, made: PromptBank, several: bool) -> list[Work]:
    """A request for each text: to prompts of their own, or all to the first."""
    return [engine.work(made.get(f"p{n * several}"), text, truncate=True) for n, text in enumerate(texts(REQUESTS))]


def against_one(backbone: AbstractBackbone, vectors: int, turns: int) -> dict[str, Any]:
    """Many prompts against one."""
    engine, made = Engine(backbone), filled(backbone, drawn(backbone, REQUESTS, vectors))
    many, one = (works(engine, made, several) for several in (True, False))
    seconds = in_turns(turns, lambda: engine.answer(many, TOGETHER), lambda: engine.answer(one, TOGETHER))
    return {
        "seconds over many prompts": statistics.median(seconds[0]),
        "seconds over one prompt": statistics.median(seconds[1]),
        "throughput over many, over one": ratio(seconds[1], seconds[0]),
    }


def against_others(backbone: AbstractBackbone, vectors: int, turns: int) -> dict[str, Any]:
    """Many prompts against one, against many that are not compiled, and against a pass for each adapter of PEFT."""
    prompts = drawn(backbone, REQUESTS, vectors)
    engine, plain, made = Engine(backbone), Engine(backbone, prefix_bytes=0), filled(backbone, prompts)
    many, one = (works(engine, made, several) for several in (True, False))
    by_peft = peft_passes(backbone, prompts, many)
    answers = engine.answer(many, TOGETHER)
    ours = torch.stack([answer.scores for answer in answers if answer.scores is not None])
    seconds = in_turns(
        turns,
        lambda: engine.answer(many, TOGETHER),
        lambda: engine.answer(one, TOGETHER),
        lambda: plain.answer(many, TOGETHER),
        by_peft,
    )
    return {
        "tokens of all texts": sum(work.tokens for work in many),
        "tokens of a template before its text": len(opening_of(many[0])),
        "MB of compiled prompts": engine.prefixes.nbytes / 1e6,
        "seconds over many prompts": statistics.median(seconds[0]),
        "seconds over one prompt": statistics.median(seconds[1]),
        "seconds over many prompts that are not compiled": statistics.median(seconds[2]),
        "seconds of PEFT": statistics.median(seconds[3]),
        "throughput over many, over one": ratio(seconds[1], seconds[0]),
        "throughput over many that are not compiled, over one": ratio(seconds[1], seconds[2]),
        "PEFT over ours": ratio(seconds[3], seconds[0]),
        "largest difference to PEFT in nats": float((ours.log_softmax(-1) - by_peft().log_softmax(-1)).abs().max()),
    }


def peft_passes(
    backbone: AbstractBackbone, prompts: dict[str, SoftPrompt], many: list[Work]
) -> Callable[[], torch.Tensor]:
    """The same requests by one adapter of PEFT after the other: gives the scores of the labels."""
    import peft

    settings = peft.PromptTuningConfig(
        task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=next(iter(prompts.values())).length
    )
    # A model of its own: PEFT wraps the layers of the one that it is given.
    model: Any = peft.get_peft_model(load_backbone(backbone.spec).model, settings, adapter_name="p0").eval()
    for name in list(prompts)[1:]:
        model.add_adapter(name, settings)
    with torch.no_grad():
        for name, prompt in prompts.items():
            model.prompt_encoder[name].embedding.weight.copy_(prompt.expanded())
    rows = [work.row.inputs.row(0).long()[None] for work in many]
    reading = many[0].served.asked.reading
    assert reading is not None
    firsts = [label[0] for label in reading.labels]

    @torch.no_grad()
    def by_peft() -> torch.Tensor:
        scores = []
        for name, ids in zip(prompts, rows, strict=True):
            model.set_adapter(name)
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
            scores.append(logits.log_softmax(-1)[firsts])
        return torch.stack(scores)

    return by_peft


def overhead(backbone: AbstractBackbone, count: int) -> dict[str, Any]:
    """Milliseconds of wall time that a request takes beside the pass of its row."""
    import httpx
    from softprompt.serving.http import ServerSettings, Service, build_app, listen, server_of

    made, (text,) = filled(backbone, drawn(backbone, 1, VECTORS)), texts(1)
    service = Service(made, Engine(backbone), ServerSettings(model_name="m"), Limits(max_wait=0.0))
    listener, server = listen("127.0.0.1", 0), server_of(build_app(service), service, drain=1.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    body, address = {"model": "m:p0", "inputs": text, "truncate": True}, f"http://127.0.0.1:{listener.getsockname()[1]}"
    bare, whole, cpu = [], [], []
    with httpx.Client(base_url=address) as client:
        for turn in range(-5, count):
            work = service.engine.work(made.get("p0"), text, truncate=True)
            times = [(time.perf_counter(), time.process_time())]
            service.engine.run([work])
            times.append((time.perf_counter(), time.process_time()))
            assert client.post("/classify", json=body).status_code == 200
            times.append((time.perf_counter(), time.process_time()))
            if turn >= 0:
                walls, cpus = (
                    [after - before for before, after in itertools.pairwise(t)] for t in zip(*times, strict=True)
                )
                bare.append(walls[0])
                whole.append(walls[1])
                cpu.append(cpus[1] - cpus[0])
    server.should_exit = True
    thread.join()
    beside = [w - b for w, b in zip(whole, bare, strict=True)]
    return {
        "milliseconds of the pass": 1000 * statistics.median(bare),
        "milliseconds beside it": 1000 * statistics.median(beside),
        "the same of the calmest tenth": 1000 * statistics.quantiles(beside, n=10)[0],
        "CPU milliseconds beside it, client included": 1000 * statistics.median(cpu),
    }


def bank(backbone: AbstractBackbone, count: int) -> dict[str, Any]:
    """Loading many prompts from one file, and from folders."""
    prompts = drawn(backbone, count, 1, VECTORS)
    with tempfile.TemporaryDirectory() as place:
        file = write_bank(Path(place) / "bank", prompts.items())
        # Waiting for the disk once a file is not what is measured.
        _folder.os = _WithoutWaiting()  # pyright: ignore[reportAttributeAccessIssue]
        for name, prompt in prompts.items():
            save_prompt(prompt, Path(place) / "folders" / name)
        del prompts
        from_file = _load(backbone, count, lambda made: BankFile(file, made))
        from_folders = _load(backbone, count, lambda made: PromptFolder(Path(place) / "folders", made))
        return {"prompts": count, "bytes of the file": file.stat().st_size, "file": from_file, "folders": from_folders}


class _WithoutWaiting:
    """`os` without fsync."""

    def __getattr__(self, name: str) -> Any:
        return (lambda descriptor: None) if name == "fsync" else getattr(os, name)


def _load(backbone: AbstractBackbone, count: int, reader: Callable[[PromptBank], Any]) -> dict[str, float]:
    gc.collect()
    process = psutil.Process()
    before, wall, cpu = process.memory_info().rss, time.perf_counter(), time.process_time()
    made = PromptBank(Admission(backbone))
    refused = reader(made).read()
    seconds = {"CPU seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
    if refused or len(made.prompts) != count:
        raise SystemExit(f"{len(made.prompts)} of {count} prompts were served: {refused[:1]}")
    return {**seconds, "MB more": (process.memory_info().rss - before) / 1e6}


if __name__ == "__main__":
    main()
