"""Weights trained in place of a prompt on the common loop, beside plain references of their formulas."""

import math

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.baselines import BASELINES
from softprompt.baselines.kinds import swap_for
from softprompt.baselines.swap import Start
from softprompt.data import load_rows, split_rows, stream
from softprompt.inference.asked import put
from softprompt.inference.evaluate import evaluate
from softprompt.inference.predict import predict
from softprompt.inference.rows import examples_for
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.contract import new_head
from softprompt.prompts.methods import METHODS
from softprompt.prompts.prompt import LinearHead, SoftPrompt
from softprompt.prompts.seeds import stream_seed
from softprompt.store import latest_checkpoint
from softprompt.training import resume, train
from softprompt.training._loop import Loop
from softprompt.training._records import read_record
from torch.nn import functional

from baselines_kit import KEPT, NO_BIASES, SETTINGS, TEXT, digest, peft_model, plain_logits
from kit import same_files

CASES = [
    ("t5", "full"), ("gpt2", "full"), ("bert", "full"), ("gpt2", "bitfit"), ("bert", "bitfit"),
    ("t5", "bitfit"), ("llama", "bitfit"),
    ("t5", "lora"), ("gpt2", "lora"), ("llama", "lora"), ("bert", "lora"), ("t5", "ia3"), ("gpt2", "ia3"),
    ("t5", "adapter"), ("gpt2", "adapter"), ("bert", "adapter"), ("llama", "adapter-drop"), ("t5", "prefix-tuning"),
    ("gpt2", "prefix-tuning"), ("llama", "prefix-tuning"), ("gpt2", "cartridge"), ("t5", "dept"), ("gpt2", "dept"),
    ("t5", "attempt"), ("gpt2", "attempt"), ("bert", "attempt"),
]  # fmt: skip


# What stands beside the model, so that its modules and weights stay where they are also during a pass.
BESIDE = ("prefix-tuning", "cartridge", "dept", "attempt", "mpt")


def plain_rows(backbone, method, seed, sources):
    """DePT and ATTEMPT by their formulas: what is trained, and what one embedded row becomes."""
    swap = swap_for(method, backbone, METHODS[method].options, Start(stream_seed(seed, "network"), sources))
    p = {name: torch.nn.Parameter(values) for name, values in swap.weights().items() if name not in KEPT}
    if method == "dept":
        return p, lambda words: torch.cat([p["prompt"], words + (p["a"] @ p["b"])[: len(words)]])

    def mixed(words):
        prompts = [*sources, p["target"]]
        query = functional.silu(words.amax(0) @ p["down.weight"].T) @ p["up.weight"].T
        query = functional.layer_norm(query, query.shape, p["norm.weight"], p["norm.bias"])
        scores = torch.stack([prompt.amax(0) @ query for prompt in prompts]) / (math.e * len(query))
        prompt = p["target"] + sum(a * prompt for a, prompt in zip(scores.softmax(0), prompts, strict=True))
        return torch.cat([prompt, words])

    return p, mixed


def plain_adapters(backbone, method, seed):
    """Adapters by hooks on the model, and its norms, with the initial values of this seed."""
    swap = swap_for(method, backbone, METHODS[method].options, Start(stream_seed(seed, "network")))
    trained = {name: torch.nn.Parameter(values) for name, values in swap.weights().items() if ".adapter." in name}
    for path in {name.partition(".adapter.")[0] for name in trained}:

        def add(module, arguments, y, path=path):
            down, d, up, u = (
                trained[f"{path}.adapter.{n}"] for n in ("down.weight", "down.bias", "up.weight", "up.bias")
            )
            return y + functional.gelu(y @ down.T + d) @ up.T + u

        backbone.model.get_submodule(path).register_forward_hook(add)
    own = dict(backbone.model.named_parameters())
    return trained | {name: own[name].requires_grad_(True) for name in swap.names if ".adapter." not in name}


def plain_biases(backbone):
    """Biases of zero by hooks on every linear layer and norm of a model that has none."""
    trained = {}
    for path, module in backbone.model.named_modules():
        if not isinstance(module, torch.nn.Linear) and "Norm" not in type(module).__name__:
            continue
        trained[path] = torch.nn.Parameter(torch.zeros(len(module.weight)))
        module.register_forward_hook(lambda module, arguments, y, b=trained[path]: y + b)
    return trained


def plain_losses(backbone, task, method, seed, lr, sources):
    """The loss of each step, and the weights after the last, of a plain loop over a model that is trained in place."""
    change, model, slow = None, None, {}
    if method in ("dept", "attempt"):
        trained, change = plain_rows(backbone, method, seed, sources)
        second = "embedding_lr" if method == "dept" else "attention_lr"
        slow = {name: METHODS[method].options[second] for name in trained if name not in ("prompt", "target")}
    elif method in ("prefix-tuning", "cartridge"):
        model = peft_model(backbone, seed, method)
        trained = {name: values for name, values in model.named_parameters() if values.requires_grad}
    elif method in ("adapter", "adapter-drop"):
        trained = plain_adapters(backbone, method, seed)
    elif method == "bitfit" and backbone.name in NO_BIASES:
        trained = plain_biases(backbone)
    elif method in ("lora", "ia3"):
        trained = dict(peft_model(backbone, seed, method).named_parameters())
        trained = {name: values for name, values in trained.items() if values.requires_grad}
    else:
        own = backbone.model.named_parameters()
        trained = {name: values for name, values in own if method == "full" or name.endswith("bias")}
        for values in trained.values():
            values.requires_grad_(True)
    assert trained
    labels = (len(task.labels), backbone.hidden_size) if backbone.answers == "linear-head" else None
    head = new_head(labels, seed)
    # What stands beside words is measured in their root mean square.
    rms = backbone.word_vectors.square().mean().sqrt().item()
    units = {name: rms if change and name in ("prompt", "target", "b") else 1.0 for name in trained}
    groups = [
        {"params": [values], "lr": units[name] * slow.get(name, lr), "weight_decay": 0.01 / units[name]}
        for name, values in trained.items()
    ]
    if head is not None:
        groups.append({"params": list(head.parameters()), "lr": 5e-3, "weight_decay": 0.0})
    optimizer, peaks = torch.optim.AdamW(groups), [group["lr"] for group in groups]
    task = put(task, backbone.kind)
    rows = examples_for(backbone, task, split_rows(task, load_rows(task, None)).train, 0)
    losses = []
    for step, chosen in zip(range(1, 7), stream(rows.lengths, range(len(rows)), 8, seed=seed), strict=False):
        batch = rows.batch(chosen, 0, backbone.pad_id)
        heads = [] if head is None else [LinearHead(head.weight, head.bias)]
        nothing = PromptBatch.stack([torch.zeros(0, backbone.embedding_size)], heads)
        assert batch.targets is not None
        by_row = change is not None or model is not None
        logits = plain_logits(backbone, batch, head, change, model) if by_row else backbone.logits(nothing, batch)
        loss = task_losses(logits, batch.targets).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 0.5)
        factor = step / 2 if step <= 2 else (6 - step + 1) / 4
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        optimizer.step()
    return losses, trained, head


def in_order(weights):
    """Weights by their shapes and sums: PEFT names its own otherwise."""
    return sorted(weights, key=lambda values: (values.shape, values.sum().item()))


class TestTraining:
    @pytest.mark.parametrize(("family", "method"), CASES)
    def test_it_equals_a_plain_loop_over_a_model_that_is_trained_in_place(
        self, family, method, backbone_of, more_of, task, tmp_path
    ):
        backbone, more = backbone_of(family), more_of(method, family)
        if method == "cartridge":
            more["options"] = {"text": TEXT}
        if method == "bitfit" and family in NO_BIASES:
            more["options"] = {"add_missing": True}
        run = train(task, backbone, method=method, lr=0.02, seeds=3, output=tmp_path / "run", **more, **SETTINGS)
        sources = [SoftPrompt.load(path).vectors for path in more.get("sources", ())]
        losses, weights, head = plain_losses(backbone_of(family), task, method, 3, 0.02, sources)
        record = read_record(tmp_path / "run" / f"{method}-seed3" / "metrics.jsonl")
        assert [row["loss"] for row in record if "loss" in row] == pytest.approx(losses, rel=1e-4)
        assert run.results[0].trainable == sum(values.numel() for values in weights.values())
        # After the last step, also where an earlier step scored as well.
        checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
        assert checkpoint is not None
        kept = [checkpoint.tensors[f"0/parameters.swap.trained.{number}"] for number in range(len(weights))]
        for ours, theirs in zip(in_order(kept), in_order(weights.values()), strict=True):
            # ATTEMPT's attention moves by a tenth in each step.
            atol = 1e-4 if method == "attempt" else 2e-5
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=atol)
        if head is not None:
            kept = checkpoint.tensors["0/parameters.head.weight"]
            torch.testing.assert_close(kept, head.weight.detach(), rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("method", BASELINES)
    def test_the_model_that_was_given_is_never_changed(self, method, backbone_of, more_of, task, tmp_path, monkeypatch):
        backbone = backbone_of("gpt2")
        settings = {"method": method, "lr": 0.05, **more_of(method, "gpt2"), **SETTINGS}
        before = digest(backbone.model)
        run = train(task, backbone, output=tmp_path / "run", **settings)
        assert digest(backbone.model) == before
        evaluate(run.tuned(), model=backbone)
        assert digest(backbone.model) == before
        logits, calls = backbone.logits, []

        def failing(*arguments):
            calls.append(digest(backbone.model))
            if len(calls) == 12:
                raise ArithmeticError("in the middle of a pass")
            return logits(*arguments)

        monkeypatch.setattr(backbone, "logits", failing)
        with pytest.raises(ArithmeticError):
            train(task, backbone, output=tmp_path / "crash", **{**settings, "steps": 60})
        # Within the passes it was another one, or it had something beside it.
        assert len({*calls, before}) > 3 or method in BESIDE
        assert digest(backbone.model) == before
        assert backbone.prefix is None
        assert backbone.on_rows is None

    def test_prompts_beside_it_are_what_they_are_alone(self, backbone_of, task, tmp_path):
        backbone = backbone_of("t5")
        train(task, backbone, method="ept", output=tmp_path / "alone", **SETTINGS)
        train(task, backbone, method=["full", "ept", "lora"], output=tmp_path / "together", **SETTINGS)
        for file in ("metrics.jsonl", "prompt/prompt.safetensors", "result.json"):
            alone, together = (tmp_path / run / "ept-seed0" / file for run in ("alone", "together"))
            assert alone.read_bytes() == together.read_bytes()

    def test_a_packed_model_trains_by_the_reference_passes_and_stays_packed(self, tiny_t5, task, tmp_path, caplog):
        packed, plain = (from_model(*tiny_t5(), name="t5", engine=engine) for engine in ("packed", "reference"))
        runs = [
            train(task, backbone, method="full", lr=0.05, output=tmp_path / backbone.engine, **SETTINGS)
            for backbone in (packed, plain)
        ]
        assert packed.engine == "packed"
        assert sum("not of the packed engine" in message for message in caplog.messages) == 1
        records = [read_record(run.folder / "full-seed0" / "metrics.jsonl") for run in runs]
        losses = [[row["loss"] for row in record if "loss" in row] for record in records]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert runs[0].results[0].metrics == runs[1].results[0].metrics

    @pytest.mark.parametrize(
        ("family", "method"),
        [
            ("t5", "full"),
            ("bert", "full"),
            ("gpt2", "bitfit"),
            ("t5", "lora"),
            ("gpt2", "adapter"),
            ("t5", "prefix-tuning"),
            ("gpt2", "cartridge"),
            ("t5", "dept"),
            ("gpt2", "attempt"),
        ],
    )
    def test_a_run_that_died_is_resumed_to_the_same_bytes(
        self, family, method, backbone_of, more_of, task, tmp_path, monkeypatch
    ):
        options = {"options": {"dropout": 0.3}} if method == "lora" else {}
        settings = {"method": method, "lr": 0.03, **more_of(method, family), **options, **SETTINGS}
        train(task, backbone_of(family), output=tmp_path / "whole", **settings)
        optimize = Loop._optimize

        def dying(loop):
            losses = optimize(loop)
            if loop.step == 5:
                raise MemoryError("killed")
            return losses

        monkeypatch.setattr(Loop, "_optimize", dying)
        with pytest.raises(MemoryError):
            train(task, backbone_of(family), output=tmp_path / "killed", **settings)
        monkeypatch.setattr(Loop, "_optimize", optimize)
        resume(tmp_path / "killed", model=backbone_of(family))
        ignored = ("timing.jsonl", "state.json", "manifest.json")
        assert same_files(tmp_path / "whole", tmp_path / "killed", ignore=ignored)

    def test_dropout_of_a_lora_is_drawn_by_the_noise_seed_during_training_only(self, backbone_of, task, tmp_path):
        backbone, results = backbone_of("t5"), []
        for number, dropout in enumerate((0.0, 0.5, 0.5)):
            options = {"dropout": dropout, "r": 2}
            run = train(
                task, backbone, method="lora", lr=0.05, options=options, output=tmp_path / str(number), **SETTINGS
            )
            results.append(run.tuned())
        names = sorted(results[0].weights)
        same = [torch.equal(results[1].weights[name], results[2].weights[name]) for name in names]
        other = [torch.equal(results[0].weights[name], results[1].weights[name]) for name in names]
        assert all(same)
        assert not all(other)
        assert predict(results[1], ["good film"], model=backbone) == predict(results[1], ["good film"], model=backbone)

    def test_a_loss_that_is_not_finite_drops_it_and_leaves_the_others(self, backbone_of, task, tmp_path):
        run = train(
            task,
            backbone_of("t5"),
            method=["full", "ept"],
            lr=1e30,
            output=tmp_path / "run",
            **{**SETTINGS, "clip": None},
        )
        assert run.results[0].status.startswith("dropped at step")
