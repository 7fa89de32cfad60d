"""What is trained in place of a prompt: full fine-tuning, BitFit and LoRA on the common loop."""

import dataclasses
import hashlib
import json
import math
from typing import Any

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.backbones.encoder_decoder import EncoderDecoderBackbone
from softprompt.baselines import BASELINES, answering, count, load_peft
from softprompt.baselines.bitfit import missing_biases
from softprompt.baselines.kinds import swap_for
from softprompt.baselines.swap import Beginning
from softprompt.cli import main
from softprompt.data import load_rows, split_rows, stream
from softprompt.errors import BadInput, DamagedFile, ModelMismatch, SoftPromptError, UnknownName, UnsupportedModel
from softprompt.inference.asked import put
from softprompt.inference.evaluate import evaluate, examples_for
from softprompt.inference.predict import predict
from softprompt.interop.hub import load_stored
from softprompt.lab.demo import Demo
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.contract import new_head
from softprompt.prompts.methods import METHODS
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.prompts.seeds import seeded, stream_seed
from softprompt.prompts.tuned import TunedWeights
from softprompt.settings import PromptSettings
from softprompt.store import latest_checkpoint, load_tuned, save_tuned
from softprompt.tasks import TASKS, with_difficulty
from softprompt.training import resume, train
from softprompt.training._loop import Loop
from softprompt.training._records import read_record
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from kit import review_task, same_files

TEXT = "the film was very good and the movie was a very bad film"
SETTINGS = {"steps": 6, "eval_every": 3, "batch_size": 8, "warmup": 2, "clip": 0.5, "loss": "tokens"}
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


@pytest.fixture(scope="module")
def backbone_of(tiny_model):
    """Fresh tiny backbones by family; BERT answers by a linear head."""

    def build(family, **options):
        head = {"head": False} if family == "bert" else {}
        return from_model(*tiny_model(family, **head, **options), name=family, engine="reference")

    return build


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def more_of(backbone_of, task, tmp_path_factory):
    """What a method needs beside its name: for some two prompts of other tasks, trained on the same model."""

    def build(method, family):
        if not METHODS[method].takes_sources:
            return {}
        folder = tmp_path_factory.mktemp("sources")
        return {"sources": [str(source(backbone_of(family), task, folder / str(n), n)) for n in (1, 2)]}

    return build


def source(backbone, task, folder, seed, n=10):
    """The folder of a stored prompt for the model, with random numbers."""
    vectors = torch.randn(n, backbone.embedding_size, generator=torch.Generator().manual_seed(seed))
    of = dataclasses.replace(put(task, backbone.kind), name=f"task {seed}").to_json()
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


def plain_rows(backbone, method, seed, sources):
    """DePT and ATTEMPT by their formulas: what is trained, and what one embedded row becomes."""
    swap = swap_for(method, backbone, METHODS[method].options, Beginning(stream_seed(seed, "network"), sources))
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


def plain_adapters(backbone, method, seed):
    """Adapters by hooks on the model, and its norms, with the initial values of this seed."""
    swap = swap_for(method, backbone, METHODS[method].options, Beginning(stream_seed(seed, "network")))
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


@pytest.fixture(scope="module")
def runs(backbone_of, more_of, task, tmp_path_factory):
    """A run of each kind on the model that it is for."""
    folder = tmp_path_factory.mktemp("runs")
    chosen = {
        "full": "bert", "bitfit": "gpt2", "lora": "t5", "ia3": "gpt2", "adapter": "t5", "adapter-drop": "gpt2",
        "prefix-tuning": "t5", "cartridge": "gpt2", "dept": "gpt2", "attempt": "t5", "mpt": "gpt2",
    }  # fmt: skip
    return {
        method: train(
            task,
            backbone_of(family),
            method=method,
            lr=0.05,
            output=folder / method,
            **more_of(method, family),
            **SETTINGS,
        )
        for method, family in chosen.items()
    }, chosen


class TestStored:
    @pytest.mark.parametrize("method", BASELINES)
    def test_its_folder_is_evaluated_and_predicts_as_it_was_trained(self, method, runs, backbone_of, task):
        run, family = runs[0][method], runs[1][method]
        backbone, tuned = backbone_of(family), load_stored(run.folder)
        assert isinstance(tuned, TunedWeights)
        found = evaluate(tuned, model=backbone)
        assert found.metrics.items() <= run.results[0].metrics["test"].items()
        # As they are in the file: a template may put words around them.
        texts = [{"text": row["text"]} for row in split_rows(task, load_rows(task, None)).test]
        answers = [row["prediction"] for row in found.rows]
        assert [answer["label"] for answer in predict(tuned, texts, model=backbone)] == answers
        kept = sum(values.numel() for name, values in tuned.weights.items() if name in KEPT)
        assert run.results[0].stored == tuned.stored == count(method, backbone, tuned.options) + kept
        before = predict(SoftPrompt(tuned.vectors, tuned.provenance, head=tuned.head), texts, model=backbone)
        assert before != predict(tuned, texts, model=backbone)

    @pytest.mark.parametrize("method", ["lora", "ia3", "prefix-tuning", "cartridge"])
    def test_peft_reads_it_as_its_own_and_computes_the_same_bits(self, method, runs, backbone_of):
        from peft import PeftModel

        run, family = runs[0][method], runs[1][method]
        ours, theirs = backbone_of(family), backbone_of(family)
        peft = PeftModel.from_pretrained(theirs.model, str(run.folder / f"{method}-seed0" / "peft")).eval()
        ids = torch.arange(3, 15).view(2, 6)
        inputs = {"input_ids": ids, **({"decoder_input_ids": ids[:, :3]} if family == "t5" else {})}
        if method in ("prefix-tuning", "cartridge"):
            self.same_rows(run.tuned(), ours, peft)
            return
        with answering(run.tuned(), ours), torch.no_grad():
            logits = ours.model(**inputs).logits
        with torch.no_grad():
            assert torch.equal(logits, peft(**inputs).logits)
            assert not torch.equal(logits, backbone_of(family).model(**inputs).logits)

    def same_rows(self, tuned, backbone, peft):
        """Whether rows of two lengths get the logits and the generated answers that PEFT gives each of them alone."""
        ids = torch.arange(3, 15).view(2, 6)
        mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
        targets = torch.tensor([[5, 6, 7], [8, 9, -100]])
        batch = TextBatch(ids, mask, torch.zeros(2, dtype=torch.long), targets)
        nothing = PromptBatch.stack([torch.zeros(0, backbone.embedding_size)])
        with torch.no_grad():
            expected = plain_logits(backbone, batch, None, model=peft)
            with answering(tuned, backbone):
                logits = backbone.logits(nothing, batch)
                answers = backbone.answer_ids(nothing, batch, max_new_tokens=4, at_least=4)
                scores = backbone.label_scores(nothing, batch, [[5, 6, 7], [8, 9]])
        there = targets != -100
        torch.testing.assert_close(logits[there], expected[there], rtol=1e-4, atol=1e-5)
        chosen = logits[0].log_softmax(-1).gather(1, targets[:1].T).sum()
        torch.testing.assert_close(scores[0, 0], chosen, rtol=1e-4, atol=1e-5)
        given = {"input_ids": ids[:1], "attention_mask": torch.ones_like(ids[:1])}
        generated = peft.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert generated[0, -4:].tolist() == answers[0].tolist()

    @pytest.mark.parametrize("method", ["lora", "ia3", "prefix-tuning", "cartridge"])
    def test_a_folder_of_stock_peft_is_read_and_answers_as_peft_does(self, method, backbone_of, tmp_path):
        backbone = backbone_of("gpt2")
        stock = peft_model(backbone_of("gpt2"), 0, method)
        with torch.no_grad():
            for number, values in enumerate(v for v in stock.parameters() if v.requires_grad):
                values += torch.randn(values.shape, generator=torch.Generator().manual_seed(number))
        stock.save_pretrained(tmp_path / "stock")
        tuned = load_peft(tmp_path / "stock", backbone)
        ids = torch.arange(3, 15).view(2, 6)
        if method in ("prefix-tuning", "cartridge"):
            self.same_rows(tuned, backbone, stock.eval())
            return
        with answering(tuned, backbone), torch.no_grad():
            assert torch.equal(backbone.model(ids).logits, stock.eval()(ids).logits)
        assert load_tuned(save_tuned(tuned, tmp_path / "kept")).weights.keys() == tuned.weights.keys()

    @pytest.mark.parametrize(("method", "family"), [("lora", "bert"), ("ia3", "gpt2")])
    def test_our_own_folder_for_peft_answers_as_the_weights_beside_it(
        self, method, family, tiny_model, save_tiny, task, tmp_path
    ):
        model = save_tiny(tmp_path / "model", *tiny_model(family, head=family != "bert"))
        # A loss over labels, which decoders score without the end of sequence.
        settings = {**SETTINGS, "steps": 2, "loss": "labels" if family == "gpt2" else "tokens"}
        run = train(task, str(model), method=method, lr=0.05, output=tmp_path / "run", **settings)
        tuned, folder = run.tuned(), run.folder / f"{method}-seed0" / "peft"
        assert main(["import", str(folder), "--output", str(tmp_path / "kept")]) == 0
        found = load_tuned(tmp_path / "kept")
        assert (found.provenance.scoring, found.provenance.task) == (tuned.provenance.scoring, tuned.provenance.task)
        assert bool(found.provenance.scoring) == (family == "gpt2")
        texts = ["a good film", "a terrible movie", "it was very bad"]
        assert predict(found, texts) == predict(tuned, texts)
        (folder / "softprompt.json").write_text("{}")
        assert main(["import", str(folder), "--output", str(tmp_path / "other")]) == 2

    def test_what_stock_peft_trained_in_another_way_is_refused(self, backbone_of, tmp_path):
        from peft import LoraConfig, VeraConfig, get_peft_model

        for number, (config, error) in enumerate(
            [
                (LoraConfig(use_rslora=True), "use_rslora"),
                (LoraConfig(bias="all"), "biases"),
                (VeraConfig(), "VERA"),
                (LoraConfig(init_lora_weights="pissa"), "'pissa', which changes the weights of the model itself"),
            ]
        ):
            config.fan_in_fan_out = True
            get_peft_model(backbone_of("gpt2").model, config).save_pretrained(tmp_path / str(number))
            with pytest.raises(BadInput, match=error):
                load_peft(tmp_path / str(number), backbone_of("gpt2"))

    @pytest.mark.parametrize(("method", "other"), [("full", "distilbert"), ("bitfit", "opt"), ("lora", "mt5")])
    def test_another_model_is_refused(self, method, other, runs, backbone_of):
        with pytest.raises(ModelMismatch):
            evaluate(runs[0][method].tuned(), model=backbone_of(other, seed=1))

    def test_a_model_with_the_same_words_and_other_layers_is_refused(self, runs, backbone_of):
        backbone = backbone_of("bert", num_hidden_layers=3)
        with torch.no_grad():
            backbone.embeddings.weight.copy_(backbone_of("bert").embeddings.weight)
        with pytest.raises(ModelMismatch, match=r"on one side only"):
            evaluate(runs[0]["full"].tuned(), model=backbone)

    def test_a_flipped_bit_is_found(self, runs, tmp_path):
        from shutil import copytree

        folder = copytree(runs[0]["bitfit"].folder / "bitfit-seed0" / "weights", tmp_path / "weights")
        content = bytearray((folder / "weights.safetensors").read_bytes())
        content[-5] ^= 1
        (folder / "weights.safetensors").write_bytes(bytes(content))
        with pytest.raises(DamagedFile):
            load_tuned(folder)

    def test_a_run_of_a_prompt_and_weights_is_not_taken_for_one_of_them(self, backbone_of, task, tmp_path):
        backbone = backbone_of("t5")
        run = train(task, backbone, method=["ept", "lora"], output=tmp_path / "run", **SETTINGS)
        with pytest.raises(BadInput, match="several prompts: ept-seed0, lora-seed0; give one"):
            load_stored(run.folder)
        assert isinstance(load_stored(run.folder / "lora-seed0"), TunedWeights)
        assert isinstance(load_stored(run.folder / "ept-seed0"), SoftPrompt)
        assert main(["show", str(run.folder)]) == 0

    def test_it_is_no_prompt_and_a_prompt_is_no_weights(self, runs, tmp_path):
        run = runs[0]["full"]
        for take in (lambda: run.prompt(), lambda: SoftPrompt.load(run.folder)):
            with pytest.raises(BadInput, match=r"trained weights, not a prompt; softprompt\.load_tuned"):
                take()
        with pytest.raises(BadInput, match="no trained weights"):
            load_tuned(tmp_path)


class TestAddedBiases:
    def test_a_t5_base_has_as_many_as_table_4_of_the_ept_paper_says(self):
        config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128)
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config)
        assert sum(width for _, _, width in missing_biases(model)) == 282_496

    def test_a_model_with_some_biases_trains_them_and_gets_those_that_it_lacks(self, backbone_of):
        backbone = backbone_of("gpt2")
        own, whole = (count("bitfit", backbone, {"add_missing": add}) for add in (False, True))
        # The layer before the vocabulary alone has none.
        assert whole - own == backbone.model.lm_head.out_features

    @pytest.mark.parametrize("family", NO_BIASES)
    def test_the_model_is_as_before_and_what_is_stored_answers_as_it_did(self, family, backbone_of, task, tmp_path):
        backbone = backbone_of(family)
        before = digest(backbone.model)
        options = {"options": {"add_missing": True}, "lr": 0.05}
        run = train(task, backbone, method="bitfit", output=tmp_path / "run", **options, **SETTINGS)
        assert digest(backbone.model) == before
        assert all(values.any() for values in run.tuned().weights.values())
        found = evaluate(load_stored(run.folder), model=backbone_of(family))
        assert found.metrics.items() <= run.results[0].metrics["test"].items()
        assert digest(backbone.model) == before


class TestRefusals:
    @pytest.mark.parametrize("family", NO_BIASES)
    def test_bitfit_needs_biases(self, family, backbone_of, task, tmp_path):
        with pytest.raises(UnsupportedModel, match=r"has none; give .* add_missing=true"):
            train(task, backbone_of(family), method="bitfit", output=tmp_path / "run", **SETTINGS)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("method", BASELINES)
    def test_quantised_and_half_precision_weights_are_refused_by_name(self, method, tiny_gpt, backbone_of):
        backbone = backbone_of("gpt2")
        backbone.quantize = "int8"
        options = METHODS[method].options
        with pytest.raises(UnsupportedModel, match=f"'{method}'.*quantised"):
            swap_for(method, backbone, options)
        half = from_model(*tiny_gpt("gpt2", dtype=torch.bfloat16), name="gpt2")
        with pytest.raises(UnsupportedModel, match=f"'{method}'.*bfloat16"):
            swap_for(method, half, options)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("init", "vocabulary"), ("units", "rms"), ("max_norm", 3.0), ("deep", True)],
    )
    def test_settings_of_prompts_are_refused(self, option, value, backbone_of, task, tmp_path):
        with pytest.raises(BadInput, match=f"'full' trains weights, and `{option}` is for prompts"):
            train(task, backbone_of("t5"), method="full", output=tmp_path / "run", **{option: value}, **SETTINGS)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"r": 0}, "r of at least 1"), ({"dropout": 1.0}, "dropout"), ({"targets": "nowhere"}, "nowhere"),
            ({"rank": 3}, "rank"),
        ],
    )  # fmt: skip
    def test_options_of_a_lora_that_cannot_be_are_refused(self, options, error, backbone_of, task, tmp_path):
        backbone = backbone_of("t5")
        before = digest(backbone.model)
        with pytest.raises(SoftPromptError, match=error):
            train(task, backbone, method="lora", options=options, output=tmp_path / "run", **SETTINGS)
        assert digest(backbone.model) == before

    def test_weights_are_not_trained_beside_prompts_that_begin_as_words(self, backbone_of, task, tmp_path):
        asked = dataclasses.replace(task, instruction="film is")
        prompts = [PromptSettings(method="full"), PromptSettings(init="instruction")]
        with pytest.raises(BadInput, match="'full' trains weights, and beside"):
            train(asked, backbone_of("t5"), prompts=prompts, output=tmp_path / "run", **SETTINGS)

    @pytest.mark.parametrize(
        ("family", "method", "error"),
        [
            ("bert", "prefix-tuning", "'prefix-tuning' needs a decoder.*is an encoder"),
            ("t5", "cartridge", "'cartridge' begins as a decoder's own cache"),
        ],
    )
    def test_what_a_backbone_cannot_have_is_refused_by_name(self, family, method, error, backbone_of):
        with pytest.raises(UnsupportedModel, match=error):
            swap_for(method, backbone_of(family), METHODS[method].options)

    @pytest.mark.parametrize(
        ("method", "options", "error"),
        [
            ("cartridge", {"text": "good film"}, "length=5"), ("cartridge", {"frozen": 10}, "0 to 9"),
            ("prefix-tuning", {"length": 0}, "at least 1"), ("dept", {"positions": 8}, "positions=59"),
            ("dept", {"rank": 0}, "at least 1"), ("adapter-drop", {"share": 0.9}, "without any adapter"),
            ("adapter", {"bottleneck": 0}, "at least 1"),
            ("ia3", {"feedforward": "fc"}, "among"), ("attempt", {"length": 3}, "--prompt-length 10"),
        ],
    )  # fmt: skip
    def test_options_that_cannot_be_are_refused(self, method, options, error, backbone_of, more_of, task, tmp_path):
        with pytest.raises(BadInput, match=error.replace("--prompt-length 10", "prompt_length")):
            train(
                task, backbone_of("gpt2"), method=method, options=options, output=tmp_path / "run",
                **more_of(method, "gpt2"), **SETTINGS,
            )  # fmt: skip
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("method", ["lora", "ia3"])
    def test_without_peft_one_line_names_the_extra(self, method, backbone_of, monkeypatch):
        monkeypatch.setattr("softprompt.baselines.peft_layers.find_spec", lambda name: None)
        with pytest.raises(BadInput, match=rf"'{method}' is built by PEFT.*softprompt\[peft\]"):
            swap_for(method, backbone_of("t5"), METHODS[method].options)

    def test_full_fine_tuning_has_no_options(self):
        with pytest.raises(BadInput, match="takes no option 'r'"):
            METHODS["full"].with_options({"r": 3})

    def test_a_model_with_adapters_gets_no_second_ones(self, backbone_of):
        backbone = backbone_of("gpt2")
        peft_model(backbone, 0)
        before = digest(backbone.model)
        with pytest.raises(UnsupportedModel, match="adapters of PEFT already"):
            swap_for("lora", backbone, METHODS["lora"].options)
        assert digest(backbone.model) == before

    def test_an_unknown_kind_is_named(self, backbone_of):
        with pytest.raises(UnknownName, match="Did you mean 'lora'"):
            swap_for("loar", backbone_of("t5"), {})


class TestSwap:
    def test_a_tied_table_is_one_parameter_and_stays_tied(self, backbone_of):
        backbone = backbone_of("t5")
        model = backbone.model
        swap = swap_for("full", backbone, {})
        assert swap.count == sum(values.numel() for values in model.parameters())
        own = model.shared.weight
        with swap.applied():
            assert model.shared.weight is model.encoder.embed_tokens.weight is model.lm_head.weight
            assert model.shared.weight is not own
        assert model.shared.weight is own is model.lm_head.weight

    def test_at_the_beginning_it_computes_what_the_model_does(self, backbone_of):
        backbone, ids = backbone_of("gpt2"), torch.arange(3, 15).view(2, 6)
        before = backbone.model(ids).logits
        for kind in BASELINES:
            with swap_for(kind, backbone, METHODS[kind].options).applied():
                logits = backbone.model(ids).logits
            # Adapters begin near zero, not at it.
            assert torch.allclose(logits, before, atol=5e-2 if "adapter" in kind else 0), kind

    def test_adapters_follow_self_attention_and_feed_forward_and_the_lowest_layers_drop_theirs(self, backbone_of):
        def paths(family, kind, **options):
            swap = swap_for(kind, backbone_of(family), {**METHODS[kind].options, **options})
            return {name.partition(".adapter.")[0] for name in swap.names if ".adapter." in name}

        ends = ("layer.0.SelfAttention.o", "layer.{}.DenseReluDense.wo")
        whole = {
            f"{s}.block.{n}.{end.format(f)}"
            for s, f in (("encoder", 1), ("decoder", 2))
            for n in (0, 1)
            for end in ends
        }
        assert paths("t5", "adapter") == whole
        assert paths("t5", "adapter-drop") == {path for path in whole if ".block.1." in path}
        assert paths("t5", "adapter", targets="SelfAttention.q") == {
            f"{stack}.block.{n}.layer.0.SelfAttention.q" for stack in ("encoder", "decoder") for n in (0, 1)
        }
        assert len(paths("bert", "adapter")) == len(paths("opt", "adapter")) == len(paths("llama", "adapter")) == 4

    def test_adapters_of_a_t5_base_have_the_counts_of_the_papers_table_4(self):
        from transformers import T5Config, T5ForConditionalGeneration

        config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config)
        base = object.__new__(EncoderDecoderBackbone)
        base.model, base.name = model, "t5-base"
        # 1.9M and 1.1M there, rounded.
        counts = {kind: swap_for(kind, base, METHODS[kind].options).count for kind in ("adapter", "adapter-drop")}
        assert counts == {"adapter": 1_855_104, "adapter-drop": 1_101_984}
        # 220M, and 77K of 100 vectors.
        assert swap_for("full", base, {}).count == 222_903_552
        assert METHODS["spot"].with_options({"m": 100}).trainable(768) == 76_800


def test_the_command_line_trains_evaluates_and_predicts(tmp_path, capsys):
    task = with_difficulty(TASKS["lab/opinion"], train=64, validation=16, test=16)
    run = str(tmp_path / "run")
    row = next(iter(load_rows(task, None)["test"]))
    train_it = ["train", "--task", "lab/opinion", "--model", "lab-t5-small", "--method", "full", "--steps", "4"]
    short = ["--eval-every", "4", "--eval-rows", "16", "--quiet", "--output", run]
    for option in ("train=64", "validation=16", "test=16"):
        short += ["--task-option", option]
    assert main([*train_it, *short]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["metrics"]["score"] <= 1
    assert main(["predict", run, row[task.columns[0]], "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in task.labels
    assert main(["export", run, "--format", "peft", "--output", str(tmp_path / "out")]) == 2
    assert "holds trained weights, not a prompt" in capsys.readouterr().err


def test_the_command_line_imports_weights_of_stock_peft(tiny_gpt, save_tiny, backbone_of, tmp_path, capsys):
    model, tokenizer = tiny_gpt("gpt2")
    folder = save_tiny(tmp_path / "model", model, tokenizer)
    stock = peft_model(backbone_of("gpt2"), 0, "ia3")
    stock.save_pretrained(tmp_path / "stock")
    assert main(["import", str(tmp_path / "stock"), "--output", str(tmp_path / "kept")]) == 2
    assert "name it with --model" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "stock"), "--model", str(folder), "--output", str(tmp_path / "kept")]) == 0
    tuned = load_tuned(tmp_path / "kept")
    assert tuned.kind == "ia3"
    assert tuned.provenance.training == {"imported_from": "PEFT IA3"}
    assert main(["import", str(tmp_path / "stock"), "--model", str(folder), "--output", str(tmp_path / "kept")]) == 2


def test_the_demo_shows_prompts_only(tmp_path):
    with pytest.raises(BadInput, match="'full' trains weights"):
        Demo(methods=["full"], output=tmp_path)


def test_methods_are_counted_in_a_model(capsys):
    assert main(["methods", "list", "--model", "lab-t5-small", "--json"]) == 0
    counts = {row["method"]: row["trainable"] for row in json.loads(capsys.readouterr().out)}
    backbone = load_backbone("lab-t5-small")
    layers = len(backbone.model.encoder.block) + 2 * len(backbone.model.decoder.block)
    assert counts["full"] == sum(values.numel() for values in backbone.model.parameters())
    assert counts["bitfit"] is None
    # PEFT's choice for a T5 are queries and values, of self- and cross-attention, with matrices of rank 8.
    inner = backbone.model.config.num_heads * backbone.model.config.d_kv
    assert counts["lora"] == layers * 2 * 8 * (backbone.embedding_size + inner)
    assert counts["prompt-tuning"] == 10 * backbone.embedding_size
