"""The arms of the study: the ways to train a prompt that are compared, each a row of the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from softprompt.initial import Initial

Loss = Literal["labels", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the tables: a way to train a prompt.

    Args:
        label: how the tables name it.
        prompt: fields of `PromptSettings`; the learning rate may be left to `RATES`.
        loss: what is minimised.
        rates: learning rates among which the rows of `RATE_TASKS` choose.
        alone: whether each seed needs a pass of its own, because it trains weights of the model.
        core: whether it is trained on every task, and not on `EVERY_ARM` only.
        bare: whether its rows come without the instruction.
        untrained: whether it is scored as it begins. It takes one step that changes nothing.
    """

    label: str
    prompt: Mapping[str, Any]
    loss: Loss = "labels"
    rates: Sequence[float] = ()
    alone: bool = False
    core: bool = False
    bare: bool = False
    untrained: bool = False

    @property
    def begins(self) -> str:
        """What the rows of its runs begin with: prompts from words take the opening out of the rows."""
        initial = Initial(self.prompt.get("init", "uniform"))
        return initial.kind if initial.is_words else "random"


# The default would begin prompt tuning as the instruction.
_TUNING = {"method": "prompt-tuning", "init": "uniform"}
_STAR, _SCALED = {"method": "ept-star", "units": "rms"}, {"method": "scaled"}
_WORDS = {"init": "instruction"}


def _regularized(label: str, text: str, **prompt: Any) -> Arm:
    return Arm(label=label, prompt={**_TUNING, "regularizer": text, **prompt})


ARMS: Mapping[str, Arm] = {
    "pt": Arm(label="prompt tuning", prompt=_TUNING, rates=(0.1, 0.3, 1.0), core=True),
    "pt-vocabulary": Arm(label="prompt tuning, words drawn", prompt={**_TUNING, "init": "vocabulary"}),
    "pt-bare": Arm(label="prompt tuning, no instruction", prompt=_TUNING, bare=True),
    "pt-instruction": Arm(
        label="prompt tuning, instruction", prompt=_TUNING | _WORDS, rates=(0.01, 0.03, 0.1), core=True
    ),
    "pt-examples": Arm(
        label="prompt tuning, 4 examples", prompt={**_TUNING, "init": "examples:4"}, rates=(0.01, 0.03), core=True
    ),
    "examples-untrained": Arm(
        label="the same 4 examples, untrained", prompt={**_TUNING, "init": "examples:4"}, core=True, untrained=True
    ),
    # PEFT's own bound is .1 sqrt(width / 2048), however long the model's word vectors are: for SmolLM2 this shift.
    "cpt": Arm(
        label="CPT, 4 examples",
        prompt={**_TUNING, "init": "examples:4", "context_loss": 0.95, "max_shift": 0.0166},
        rates=(0.01, 0.03),
    ),
    "scaled": Arm(label="scaled", prompt=_SCALED, rates=(0.3, 1.0), core=True),
    "scaled-examples": Arm(label="scaled, 4 examples", prompt={**_SCALED, "init": "examples:4"}),
    "ept": Arm(label="EPT", prompt={"method": "ept", "units": "rms"}, rates=(0.01, 0.03, 0.1)),
    "ept-star": Arm(label="EPT*", prompt=_STAR, rates=(0.01, 0.03, 0.1), core=True),
    "ept-star-instruction": Arm(label="EPT*, instruction", prompt=_STAR | _WORDS, rates=(0.003, 0.01, 0.03)),
    "p-tuning": Arm(label="p-tuning", prompt={"method": "p-tuning", "units": "rms"}, rates=(0.003, 0.01, 0.03)),
    "residual": Arm(label="residual", prompt={"method": "residual", "units": "rms"}, rates=(0.01, 0.03, 0.1)),
    "deep": Arm(label="deep prompts", prompt={**_TUNING, "deep": True}, rates=(0.01, 0.03, 0.1)),
    "restarts": Arm(label="prompt tuning, restarts 4", prompt={**_TUNING, "restarts": 4}, core=True),
    "restarts-instruction": Arm(
        label="prompt tuning, instruction, restarts 4", prompt={**_TUNING, **_WORDS, "restarts": 4}
    ),
    "rn": _regularized("prompt tuning, rn-emb", "rn-emb"),
    "adv": _regularized("prompt tuning, adv-emb", "adv-emb"),
    "adv-strong": _regularized("prompt tuning, adv-emb, alpha 1", "adv-emb:alpha=1"),
    "rn-text": _regularized("prompt tuning, rn-text", "rn-text"),
    "adv-text": _regularized("prompt tuning, adv-text", "adv-text"),
    "ptp-rn": _regularized("prompt tuning, ptp-rn", "ptp-rn"),
    "ptp-adv": _regularized("prompt tuning, ptp-adv", "ptp-adv"),
    "rn-instruction": _regularized("prompt tuning, instruction, rn-emb", "rn-emb", **_WORDS),
    **{
        f"deep-{short}": _regularized(f"deep prompts, {text}", text, deep=True)
        for short, text in {"rn": "rn-emb", "adv": "adv-emb", "rn-text": "rn-text", "adv-text": "adv-text",
                            "ptp-rn": "ptp-rn", "ptp-adv": "ptp-adv"}.items()
    },
    "pt-tokens": Arm(label="prompt tuning", prompt=_TUNING, loss="tokens", core=True),
    "pt-instruction-tokens": Arm(
        label="prompt tuning, instruction", prompt=_TUNING | _WORDS, loss="tokens", core=True
    ),
    "scaled-tokens": Arm(label="scaled", prompt=_SCALED, loss="tokens"),
    "ept-star-tokens": Arm(label="EPT*", prompt=_STAR, loss="tokens"),
    "lora": Arm(label="LoRA, r = 8", prompt={"method": "lora"}, rates=(0.0003, 0.001, 0.003), alone=True, core=True),
    "full": Arm(label="full fine-tuning", prompt={"method": "full"}, rates=(0.00003, 0.0001, 0.0003), alone=True),
}  # fmt: skip
# Arms that train as another does, at that one's rate.
SAME_RATE: Mapping[str, str] = {
    "pt-vocabulary": "pt",
    "pt-bare": "pt",
    "restarts": "pt",
    **dict.fromkeys(("rn", "adv", "adv-strong", "rn-text", "adv-text", "ptp-rn", "ptp-adv", "pt-tokens"), "pt"),
    **dict.fromkeys(("restarts-instruction", "rn-instruction", "pt-instruction-tokens"), "pt-instruction"),
    **dict.fromkeys([name for name in ARMS if name.startswith("deep-")], "deep"),
    "scaled-tokens": "scaled",
    "ept-star-tokens": "ept-star",
}
