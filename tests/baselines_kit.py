"""What the tests of trained weights share: cases, plain references of each method, and stock PEFT."""

import dataclasses
import hashlib
from typing import Any

import torch
from softprompt.inference.asked import worded_for
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.prompts.seeds import seeded, stream_seed
from torch.nn import functional

TEXT = "the film was very good and the movie was a very bad film"


SETTINGS = {"steps": 6, "eval_every": 3, "batch_size": 8, "warmup": 2, "clip": 0.5, "loss": "tokens"}


KEPT = ("sources", "frozen_embeddings")


NO_BIASES = ("t5", "llama")


def digest(model):
    """Of every parameter and buffer, by name; and of where each module stands."""
    found = hashlib.sha256(
        repr([(name, type(module), module.training) for name, module in model.named_modules()]).encode()
    )
    for name, values in model.state_dict().items():
        found.update(name.encode() + values.numpy().tobytes())
    return found.hexdigest()


def source(backbone, task, folder, seed, n=10):
    """The folder of a stored prompt for the model, with random numbers."""
    vectors = torch.randn(n, backbone.embedding_size, generator=torch.Generator().manual_seed(seed))
    of = dataclasses.replace(worded_for(task, backbone.kind), name=f"task {seed}").to_json()
    provenance = Provenance(method="prompt-tuning", backbone=backbone.identity(), answers=backbone.answers, task=of)
    head = LinearHead(torch.zeros(2, backbone.hidden_size), torch.zeros(2)) if backbone.kind == "encoder" else None
    return SoftPrompt(vectors, provenance, head=head).save(folder / "prompt")


def peft_model(backbone, seed, method="lora"):
    """Stock PEFT around the model, with the initial values of this seed."""
    from peft import CartridgeConfig, IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model
    from peft import initialize_kv_prefix_from_text as begin_as_text

    transposed = "gpt2" in backbone.name
    task_type = "SEQ_2_SEQ_LM" if backbone.kind == "encoder-decoder" else "CAUSAL_LM"
    configs = {
        "lora": lambda: LoraConfig(r=8, lora_alpha=8, fan_in_fan_out=transposed),
        "ia3": lambda: IA3Config(fan_in_fan_out=transposed),
        "prefix-tuning": lambda: PrefixTuningConfig(task_type=task_type, num_virtual_tokens=10),
        "cartridge": lambda: CartridgeConfig(task_type=task_type, num_virtual_tokens=10, num_frozen_tokens=1),
    }
    with seeded(stream_seed(seed, "network"), torch.device("cpu")):
        model = get_peft_model(backbone.model, configs[method]())
    if method == "cartridge":
        begin_as_text(model, backbone.tokenizer, text=TEXT, use_chat_template=False)
    if method == "prefix-tuning":
        with seeded(stream_seed(seed, "network"), torch.device("cpu")):
            model.prompt_encoder["default"].embedding.weight.data.normal_()
    return model


def plain_logits(backbone, batch, head: Any, change: Any = None, model=None):
    """The logits of each row by itself, without a pad, from its ids or from what `change` makes of its words."""
    model, rows = model or backbone.model, []
    for ids, mask, targets in zip(batch.ids, batch.mask, batch.targets, strict=True):
        ids, answer = ids[mask][None], targets[targets >= 0][None]
        table = backbone.model.get_input_embeddings()
        if backbone.kind == "encoder":
            assert change is not None
            states = backbone.stack(inputs_embeds=change(table(ids)[0])[None]).last_hidden_state[0, -ids.shape[1] :]
            logits = head(states.mean(0))[None]
        elif backbone.kind == "decoder":
            whole = torch.cat([ids, answer[:, :-1]], 1)
            if change is None:
                output = model(input_ids=whole, attention_mask=torch.ones_like(whole))
            else:
                output = model(inputs_embeds=torch.cat([change(table(ids)[0])[None], table(answer[:, :-1])], 1))
            logits = output.logits[0, -answer.shape[1] :]
        else:
            given = {"input_ids": ids} if change is None else {"inputs_embeds": change(table(ids)[0])[None]}
            before = torch.cat([torch.full_like(answer[:, :1], backbone.start), answer[:, :-1]], 1)
            logits = model(**given, decoder_input_ids=before, use_cache=False).logits[0]
        rows.append(functional.pad(logits, (0, 0, 0, len(targets) - len(logits))))
    return torch.stack(rows)
