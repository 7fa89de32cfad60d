"""Accuracy on SST-2's validation set with a real frozen encoder: five methods, three seeds each, 400 steps.

    python -m experiments.notes.sst2_minilm --data-root DATA [--model FOLDER] [--steps 400] [--seeds 0 1 2]

Best checkpoint by 1,000 rows held out of the training set (the EPT split rule); the validation set is only reported.
Every method runs at the papers' learning rate, 0.3. Each method is one fleet; its run folder is kept, so that a stopped
study goes on where it was.
"""

import argparse
import statistics
from pathlib import Path

from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.training import Run

from ..common.places import RESULTS
from ..common.results import write_plain
from ..common.runs import run_in

# Name in the results -> method.
METHODS = {
    "head-only": "linear-probe", **{name: name for name in ("prompt-tuning", "residual", "ept", "ept-star")}
}  # fmt: skip


def run_method(method: str, arguments: argparse.Namespace, dropout: bool) -> Run:
    """One fleet: the method at all seeds."""
    prompt = {"method": METHODS[method], "units": "raw", "lr": 0.3}
    return run_in(
        Path(arguments.runs) / (method + ("-dropout" if dropout else "")),
        "glue/sst2",
        arguments.model,
        prompts=[PromptSettings(**prompt, seeds=Seeds.all(seed)) for seed in arguments.seeds],
        settings=TrainSettings(steps=arguments.steps, eval_every=100, max_length=128, backbone_dropout=dropout),
        data_root=arguments.data_root,
        progress=True,
    )


def row(name: str, run: Run) -> dict:
    """Mean and standard deviation of the accuracy over seeds."""
    scores = [result.metrics["test"]["accuracy"] for result in run.results]
    first = run.results[0]
    return {
        "method": name,
        "trainable": first.trainable,
        "head": first.head,
        "stored": first.stored,
        "accuracy": scores,
        "mean": statistics.mean(scores),
        "std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
    }


def main() -> None:
    """Run what is missing, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", default="runs/sst2-minilm")
    parser.add_argument("--dropout", action="store_true", help="also with the frozen model's dropout on")
    parser.add_argument("--output", type=Path, default=RESULTS / "sst2_minilm.json")
    arguments = parser.parse_args()
    rows = [row(method, run_method(method, arguments, dropout=False)) for method in METHODS]
    if arguments.dropout:
        rows += [row(f"{m}, dropout on", run_method(m, arguments, dropout=True)) for m in ("head-only", "ept-star")]
    for r in rows:
        print(f"{r['method']:24} {r['mean']:.4f} +- {r['std']:.4f}  trainable {r['trainable']:,} head {r['head']:,}")
    settings = {"steps": arguments.steps, "seeds": arguments.seeds, "batch_size": 16, "max_length": 128}
    write_plain(arguments.output, {"settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
