"""Three prompts that answer a file in passes that they share, against three runs of one prompt each.

    python benchmarks/bulk.py [--case NAME ...] [--rounds 3] [--rows 96]

Each round answers the same rows in turn: by three commands of one prompt, by one command of three prompts with as many
rows in a pass (all prompts together), and by one with three times as many. Prints the CPU time over that of the three
runs: "loaded" for a model that is in memory, "commands" with the time to load it, once or three times. Medians over
the rounds. One thread. Adds the case to results/bulk.json.

The prompts are random words of the model. Where they are of one task, its rows are read as tokens once.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from softprompt.backbones import AbstractBackbone, load_backbone
from softprompt.data import load_rows
from softprompt.inference.asked import worded_for
from softprompt.inference.bulk import predict_file
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.tasks import task

RESULT = Path(__file__).parent / "results" / "bulk.json"
BATCH = 32
SIZES = (BATCH, 3 * BATCH)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, the tasks of its three prompts, and their length."""

    model: str
    tasks: tuple[str, ...]
    length: int


CASES = {
    "lab-t5, one task, n = 10": Case("lab-t5", ("lab/opinion",) * 3, 10),
    "lab-t5, three tasks, n = 10": Case("lab-t5", ("lab/opinion", "lab/weekend", "lab/topic"), 10),
    "SmolLM2, one task, n = 10": Case("smollm2", ("lab/opinion",) * 3, 10),
    "SmolLM2, one task, n = 100": Case("smollm2", ("lab/opinion",) * 3, 100),
}


def prompts_of(case: Case, backbone: AbstractBackbone) -> dict[str, SoftPrompt]:
    """Three prompts of random words."""
    prompts = {}
    for number, name in enumerate(case.tasks):
        draw = torch.Generator().manual_seed(number)
        ids = torch.randint(100, len(backbone.word_vectors) - 100, (case.length,), generator=draw)
        record = worded_for(task(name), backbone.kind).to_json()
        provenance = Provenance("imported", backbone.identity(), backbone.answers, task=record)
        prompts[f"p{number}"] = SoftPrompt(backbone.word_vectors[ids].clone(), provenance)
    return prompts


def answered(prompts: Mapping[str, SoftPrompt], rows: Path, backbone: AbstractBackbone, batch_size: int) -> float:
    """CPU seconds of reading, answering and writing."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        predict_file(prompts, rows, Path(folder) / "out.jsonl", model=backbone, batch_size=batch_size)
        return time.process_time() - start


def measured(case: Case, rounds: int, count: int) -> dict:
    """Times over those of three runs of one prompt each."""
    with tempfile.TemporaryDirectory() as folder:
        rows, times = Path(folder) / "rows.jsonl", []
        rows.write_text("".join(json.dumps({"passage": text}) + "\n" for text in texts(count)))
        for _ in range(rounds):
            start = time.process_time()
            backbone = load_backbone(case.model)
            loading = time.process_time() - start
            prompts = prompts_of(case, backbone)
            alone = [answered({name: prompt}, rows, backbone, BATCH) for name, prompt in prompts.items()]
            together = [answered(prompts, rows, backbone, size) for size in SIZES]
            times.append((loading, sum(alone), *together))
    ratios = {}
    for place, size in enumerate(SIZES, 2):
        loaded = [one[place] / one[1] for one in times]
        commands = [(one[0] + one[place]) / (3 * one[0] + one[1]) for one in times]
        for kind, values in (("loaded", loaded), ("commands", commands)):
            ratios[f"{kind}, {size} rows a pass"] = round(statistics.median(values), 3)
            ratios[f"{kind}, {size} rows a pass, range"] = [round(min(values), 3), round(max(values), 3)]
    seconds = [statistics.median(one[place] for one in times) for place in (0, 1)]
    return {**ratios, "seconds to load": round(seconds[0], 2), "seconds of three runs": round(seconds[1], 2)}


def texts(count: int) -> list[str]:
    """Texts of one to four passages of the laboratory, so that their lengths differ."""
    passages = [row["passage"] for row in load_rows(task("lab/opinion"), None)["train"]]
    return [" ".join(passages[4 * number : 4 * number + 1 + number % 4]) for number in range(count)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in arguments.case:
        found = measured(CASES[name], arguments.rounds, arguments.rows)
        done[name] = {"rounds": arguments.rounds, "rows": arguments.rows, **found}
        print(name, json.dumps(done[name]), flush=True)
        RESULT.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
