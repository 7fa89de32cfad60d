"""An encoder with a prompt before its text and the prompt's own linear head behind it: class scores for each text."""

import copy
from typing import Any, final

import torch
from torch import Tensor, nn

from ..backbones.family import reading_module
from ..inference.scoring import Scoring
from ..losses import task_losses
from ..prompts.prompt import LinearHead, SoftPrompt
from ._prompted import PromptedEncoder


@final
class PromptedClassifier(nn.Module):
    """The linear head over the mean of the text's states, as a sequence classifier of transformers answers.

    Its `config` is a copy of the model's with the labels of the prompt's task. Anything else is the model's. Class
    scores are calibrated where the prompt is, as in `predict`.

    Args:
        prompted: the encoder with the prompt.
        prompt: has a linear head.
    """

    prompted: PromptedEncoder

    def __init__(self, prompted: PromptedEncoder, prompt: SoftPrompt):
        super().__init__()
        head = _calibrated(prompt)
        base = reading_module(prompted.model, "encoder")
        # The encoder alone: a head of the model's own would be computed for nothing.
        self.prompted = PromptedEncoder(base, prompt, prompted.name)
        self.head = nn.Linear(head.weight.shape[1], len(head.bias), device=prompted.prompt.device)
        self.head.load_state_dict({"weight": head.weight, "bias": head.bias})
        self.head.requires_grad_(False)
        self.config = _config(base.config, prompt, len(head.bias))
        self.training = prompted.training

    def __getattr__(self, name: str) -> Any:
        """Take every other attribute from the encoder with the prompt."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("prompted"), name)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return `SequenceClassifierOutput`: the logits of each text, and its mean loss where labels are given."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        output = self.prompted(input_ids, attention_mask, return_dict=True, **options)
        states = output.last_hidden_state.to(self.head.weight.dtype)
        present = states.new_ones(states.shape[:2]) if attention_mask is None else attention_mask.to(states)
        # Not a product with the mask: a pad may hold anything.
        states = states.masked_fill(present[:, :, None] == 0, 0)
        logits = self.head(states.sum(1) / present.sum(1, keepdim=True))
        loss = None if labels is None else task_losses(logits[:, None], labels.reshape(-1, 1)).mean()
        answer = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.get("hidden_states"), attentions=output.get("attentions")
        )
        wanted = self.config.return_dict if return_dict is None else return_dict
        return answer if wanted else answer.to_tuple()

    def can_generate(self) -> bool:
        """Whether it generates: no encoder does."""
        return False


def _calibrated(prompt: SoftPrompt) -> LinearHead:
    """The head whose softmax is the calibrated one: what a temperature and a bias do to scores is linear, too."""
    assert prompt.head is not None
    head, fitted = prompt.head, Scoring.of(prompt).calibration
    labels = (prompt.provenance.task or {}).get("labels") or ()
    if fitted is None or fitted.labels != tuple(labels) or len(fitted.bias) != len(head.bias):
        return head
    bias = head.bias / fitted.temperature + torch.tensor(fitted.bias).to(head.bias)
    return LinearHead(head.weight / fitted.temperature, bias)


def _config(config: Any, prompt: SoftPrompt, classes: int) -> Any:
    """A copy of the model's configuration with the names of the classes."""
    task = prompt.provenance.task or {}
    labels = [str(label) for label in task.get("labels") or range(classes)]
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(labels[:classes] if len(labels) >= classes else map(str, range(classes))))
    config.label2id = {label: number for number, label in config.id2label.items()}
    config.problem_type = "regression" if classes == 1 else "single_label_classification"
    return config
