"""The table of all methods: what each of them sets of `Method`, in the order in which they are listed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# The options of each network over the vectors, with their defaults. The networks themselves need torch, names do not.
NETWORK_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "identity": {},
    "mlp": {"hidden": None},
    "lstm": {"hidden": None},
    "residual": {
        "bottleneck": 400, "passes": 2, "per_position": 0, "layer_norm": True, "activation": "relu", "dropout": 0.0,
    },
    "bottleneck": {
        "hidden": 1, "depth": 1, "share_depth": True, "layer_norm": False, "residual": False, "activation": "none",
        "bias": False,
    },
    "polar": {"radius": 3.0, "train_radius": False},
}  # fmt: skip

# The EPT paper trains prompt methods at 0.3 in raw units, but searches five rates for SuperGLUE. These rates are from
# trials on small models (docs/methods.md).
PROMPTS: Sequence[Mapping[str, Any]] = (
    {
        "name": "prompt-tuning",
        "summary": "m trained vectors (Lester et al., 2021, arXiv:2104.08691)",
        "units": "rms",
        "lr": 0.3,
        "lr_rms": 0.3,
    },
    {
        "name": "spot",
        "summary": "prompt tuning from the most similar source prompt (SPoT, Vu et al., 2022, arXiv:2110.07904)",
        "units": "rms",
        "lr": 0.3,
        "lr_rms": 0.3,
        "least_sources": 1,
    },
    {
        "name": "p-tuning",
        "summary": "vectors through a three-layer MLP (Liu et al., 2021, arXiv:2103.10385, as in PEFT)",
        "reparameterization": "mlp",
        "lr": 0.1,
        "lr_rms": 0.03,
    },
    {
        "name": "p-tuning-lstm",
        "summary": "vectors through a two-way LSTM and an MLP (Liu et al., 2021, arXiv:2103.10385, as in PEFT)",
        "reparameterization": "lstm",
        "lr": 0.03,
        "lr_rms": 0.03,
    },
    {
        "name": "residual",
        "summary": "vectors plus a shared bottleneck run twice (Razdaibiedina et al., 2023, arXiv:2305.03937)",
        "reparameterization": "residual",
        "lr": 0.3,
        "lr_rms": 0.03,
    },
    {
        "name": "ept",
        "summary": "one vector through a linear bottleneck of one unit (Explosive Prompt Tuning, section 3.3)",
        "m": 1,
        "reparameterization": "bottleneck",
        "lr": 0.3,
        "lr_rms": 0.1,
    },
    {
        "name": "ept-star",
        "summary": "EPT's vector repeated ten times (Explosive Prompt Tuning, section 3.3)",
        "m": 1,
        "repeats": 10,
        "reparameterization": "bottleneck",
        "lr": 0.3,
        "lr_rms": 0.1,
    },
    {
        "name": "scaled",
        "summary": "one trained vector repeated ten times, in units of the word embeddings (ours)",
        "m": 1,
        "repeats": 10,
        "units": "rms",
        "lr": 0.3,
        "lr_rms": 1.0,
    },
    {
        "name": "polar",
        "summary": "the direction of one vector, repeated ten times at a fixed norm of three tokens (ours)",
        "m": 1,
        "repeats": 10,
        "reparameterization": "polar",
        "units": "rms",
        "lr_rms": 0.1,
    },
    {
        "name": "linear-probe",
        "summary": "no prompt: the linear head of an encoder alone, the baseline of the others",
        "m": 0,
    },
)

# The rates of 3e-4, and those of ATTEMPT, are of ATTEMPT's released configurations. The others are starting points.
WEIGHTS: Sequence[Mapping[str, Any]] = (
    {
        "name": "full",
        "summary": "no prompt: every weight of the model, as a ceiling (full fine-tuning)",
        "m": 0,
        "lr": 3e-4,
        "weights": "full",
    },
    {
        "name": "bitfit",
        "summary": "no prompt: the biases of the model (BitFit, Ben Zaken et al., 2022, arXiv:2106.10199)",
        "m": 0,
        "lr": 3e-4,
        "weights": "bitfit",
        "options": {"add_missing": False},
    },
    {
        "name": "adapter",
        "summary": "no prompt: bottlenecks after attention and feed-forward (Houlsby et al., 2019, arXiv:1902.00751)",
        "m": 0,
        "lr": 3e-4,
        "weights": "adapter",
        "options": {"bottleneck": 24, "norms": True, "targets": ""},
    },
    {
        "name": "adapter-drop",
        "summary": "no prompt: adapters without those of the lowest layers (Rücklé et al., 2021, arXiv:2010.11918)",
        "m": 0,
        "lr": 3e-4,
        "weights": "adapter-drop",
        "options": {"bottleneck": 24, "norms": True, "share": 5 / 12, "targets": ""},
    },
    {
        "name": "lora",
        "summary": "low-rank matrices beside linear layers (LoRA, Hu et al., 2021, arXiv:2106.09685, by PEFT)",
        "m": 0,
        "lr": 1e-3,
        "weights": "lora",
        "options": {"r": 8, "alpha": 8, "dropout": 0.0, "targets": ""},
    },
    {
        "name": "ia3",
        "summary": "factors on keys, values, feed-forward ((IA)3, Liu et al., 2022, arXiv:2205.05638, by PEFT)",
        "m": 0,
        "lr": 3e-2,
        "weights": "ia3",
        "options": {"targets": "", "feedforward": ""},
    },
    {
        "name": "prefix-tuning",
        "summary": "keys and values before a decoder's own (Li and Liang, 2021, arXiv:2101.00190, as in PEFT)",
        "m": 0,
        "lr": 3e-2,
        "weights": "prefix-tuning",
        "options": {"length": 10, "begins": "auto"},
    },
    {
        "name": "cartridge",
        "summary": "keys and values that begin as those of a text (Cartridges, 2025, arXiv:2506.06266, as in PEFT)",
        "m": 0,
        "lr": 3e-2,
        "weights": "cartridge",
        "options": {"length": 10, "frozen": 1, "text": ""},
    },
    {
        "name": "dept",
        "summary": "a short prompt and a low-rank update of the words (DePT, Shi and Lipani, 2024, arXiv:2309.05173)",
        "m": 0,
        "units": "rms",
        "lr": 0.3,
        "lr_rms": 0.3,
        "weights": "dept",
        "options": {"length": 4, "rank": 4, "positions": 256, "embedding_lr": 5e-3},
    },
    {
        "name": "attempt",
        "summary": "a prompt for each row, mixed of source prompts (ATTEMPT, Asai et al., 2022, arXiv:2205.11961)",
        "m": 0,
        "units": "rms",
        "lr": 0.3,
        "lr_rms": 0.3,
        "weights": "attempt",
        "options": {"length": 10, "bottleneck": 100, "temperature": math.e, "attention_lr": 0.1},
        "least_sources": 1,
    },
    {
        "name": "mpt",
        "summary": "a prompt shared by tasks times a matrix of each (MPT, Wang et al., 2023, arXiv:2303.02861)",
        "m": 0,
        "units": "rms",
        "lr": 0.3,
        "lr_rms": 0.3,
        "weights": "mpt",
        "options": {"length": 10, "rank": 1, "task_lr": 0.4, "distillation": 0.9, "source_steps": 0},
        "least_sources": 2,
    },
)
