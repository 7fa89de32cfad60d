"""softprompt: adapt a frozen language model with a few thousand numbers.

    run = softprompt.train(
        "glue/sst2",  # a task: one of softprompt.TASKS, or your own rows: a file, a DataFrame, custom_task(...)
        "google-t5/t5-small",  # a frozen model: hub id, folder, or load_backbone(...)
        method="prompt-tuning",  # its keywords are the fields of PromptSettings and TrainSettings
        seeds=[0, 1, 2],  # three prompts that share each pass of the frozen model
        steps=1000,
        output="runs/sst2",
    )
    prompt = run.prompt(0)  # what is left: vectors and where they come from
    prompt.predict(["a gripping film"])  # [{"text": ..., "label": ..., "scores": {...}}]
    softprompt.evaluate(prompt, split="test").metrics  # {"accuracy": ..., "score": ...}
    prompt.attach(model)  # a Hugging Face model, forward and generate as before
    SoftPrompt.load("runs/sst2/prompt-tuning-seed0/prompt")  # the same prompt, from its folder

Layers, imports point down only: cli; claims, confirmation; lab, stability; analysis; study; training; prediction,
interop; evaluation; answers, fleet; regularizers, room; backbones; report; data, intervals, class_scores,
lab.backbones; store, batch of prompts, methods, standardization, units; reparam, initializers, losses, prompt, tasks, metrics,
options and settings; lab.world, checks; errors.
Letters in shapes: b rows, t text tokens, l label tokens, v vocabulary, c classes, e embedding size, d hidden size,
m initial vectors, n prompt length (m x repeats), p prompts in a fleet, k layers after the first that a deep one enters.

Names are imported on first use: `import softprompt` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import errors as errors

if TYPE_CHECKING:
    __version__: str
    from .backbones import AbstractBackbone as AbstractBackbone
    from .backbones import from_model as from_model
    from .backbones import load_backbone as load_backbone
    from .inference.evaluate import evaluate as evaluate
    from .inference.predict import predict as predict
    from .metrics import METRICS as METRICS
    from .prompts.methods import METHODS as METHODS
    from .prompts.methods import Method as Method
    from .prompts.prompt import BackboneIdentity as BackboneIdentity
    from .prompts.prompt import LinearHead as LinearHead
    from .prompts.prompt import Provenance as Provenance
    from .prompts.prompt import SoftPrompt as SoftPrompt
    from .settings import PromptSettings as PromptSettings
    from .settings import Seeds as Seeds
    from .settings import TrainSettings as TrainSettings
    from .tasks import TASKS as TASKS
    from .tasks import Source as Source
    from .tasks import Task as Task
    from .tasks import custom_task as custom_task
    from .tasks import task as task
    from .tasks import with_difficulty as with_difficulty
    from .training import Result as Result
    from .training import Run as Run
    from .training import resume as resume
    from .training import train as train

# Where each public name lives; the block above is the same list for type checkers.
_HOMES = {
    "METHODS": "methods",
    "METRICS": "metrics",
    "TASKS": "tasks",
    "AbstractBackbone": "backbones",
    "BackboneIdentity": "prompt",
    "PromptSettings": "settings",
    "LinearHead": "prompt",
    "Method": "methods",
    "Provenance": "prompt",
    "Result": "training",
    "Run": "training",
    "Seeds": "settings",
    "SoftPrompt": "prompt",
    "Source": "tasks",
    "Task": "tasks",
    "TrainSettings": "settings",
    "custom_task": "tasks",
    "evaluate": "evaluation",
    "from_model": "backbones",
    "with_difficulty": "tasks",
    "load_backbone": "backbones",
    "predict": "prediction",
    "resume": "training",
    "task": "tasks",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("softprompt")
    if name not in _HOMES:
        raise AttributeError(f"module 'softprompt' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    # Kept, so that the next use does not come here.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*_HOMES, "__version__", "errors"]
