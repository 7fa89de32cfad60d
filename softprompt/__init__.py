"""softprompt: adapt a frozen language model with a few thousand trained parameters.

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

Packages, imports point down only: cli; lab, reports, live; tuning; study; analysis, export, serving; training;
interop; inference; regularizers, memory, baselines; backbones; data, builtin; store; prompts; losses, tasks, metrics,
settings; checks, initial, legacy, machine, options, run_layout, status, world; cluster, documents, spoken; errors.
Letters in shapes: b rows, t text tokens, l label tokens, v vocabulary, c classes, e embedding size, d hidden size,
m initial vectors, n prompt length (m x repeats), p prompts in a fleet, k layers after the first that a deep one enters.

The public names are listed in `__init__.pyi`. Each is imported on first use: `import softprompt` does not import torch.
"""

import lazy_loader

_attribute, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*__all__, "__version__"])


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("softprompt")
    # Asked first: an AttributeError from within a module that is imported here is not a missing name.
    if name not in __all__:
        raise AttributeError(f"module 'softprompt' has no attribute {name!r}")
    return _attribute(name)


def __dir__() -> list[str]:
    return list(__all__)
