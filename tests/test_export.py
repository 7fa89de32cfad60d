"""Exports for programs without our code, each loaded by stock libraries in a process of its own."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from softprompt.backbones import from_model, load_backbone
from softprompt.cli._doctor import damage_of
from softprompt.cli._main import main
from softprompt.errors import BadInput, CannotExport, StorageFailure
from softprompt.export import (
    CompiledPrompt,
    Spread,
    compile_prompt,
    completion_request,
    export_baked,
    export_cache,
    export_embeds,
    export_gguf_recipe,
    export_limit,
    export_onnx,
    spread_of,
)
from softprompt.inference.scoring import Scoring
from softprompt.interop.attach import attach
from softprompt.interop.peft import export_peft
from softprompt.interop.recipes import readme
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.store import save_prompt
from softprompt.tasks import Task

from kit import file_limit

TASK = {
    "name": "films", "source": {"files": {"train": "films.csv"}}, "template": "question: {film} sentence",
    "labels": ["bad", "good"],
    "instruction": "a film or not", "cue": " answer:", "metrics": ["accuracy"],
}  # fmt: skip
# As a stored prompt records it.
RECORD = Task.from_json(TASK).to_json()
# The texts of the recipes.
TEXTS = ["a text", "another, longer text"]
# Both share one table between input and output; Gemma's multiplies what it looks up, and begins a sequence.
FAMILIES = ("gpt2", "gemma")

# Every recipe as it stands in its folder, without our code.
STOCK = """
import base64, io, os, re, sys
sys.modules["softprompt"] = None
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
root, kept = Path(sys.argv[1]), {}
for family in sys.argv[2:]:
    for name in ("cache", "baked", "embeds", "onnx", "limit"):
        if not (root / f"{family}-{name}").is_dir():
            continue
        os.chdir(root / f"{family}-{name}")
        code = re.search("```python\\n(.*?)```", Path("README.md").read_text(), re.S)[1]
        names = {}
        exec(code, names)
        if name == "embeds":
            embeds = torch.load(io.BytesIO(base64.b64decode(names["body"]["prompt_embeds"])), weights_only=True)
            model = AutoModelForCausalLM.from_pretrained(root / family).eval()
            mask = torch.ones(1, len(embeds), dtype=torch.long)
            options = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False}
            answers = model.generate(inputs_embeds=embeds[None], **options)
            kept[f"{family} embeds"], kept[f"{family} embeds answers"] = embeds, answers
        elif name == "onnx":
            kept[f"{family} onnx"] = torch.from_numpy(names["logits"])
            kept[f"{family} onnx ids"] = torch.from_numpy(names["inputs"]["input_ids"])
        elif name == "limit":
            options = {"num_beams": 3, "do_sample": False, "max_new_tokens": 20}
            kept["t5 limit"] = names["answers"]
            kept["t5 limit beams"] = names["model"].generate(**names["inputs"], **options)
        else:
            start = names["rest"].input_ids.shape[1] if name == "cache" else names["inputs"]["input_ids"].shape[1]
            kept[f"{family} {name}"] = names["answers"][:, start:]
assert not [name for name in sys.modules if name.startswith("softprompt.")]
save_file({name: tensor.contiguous().clone() for name, tensor in kept.items()}, root / "kept.safetensors")
"""


def prompt_for(backbone, *, task=TASK, length=3, seed=0, scale=8.0, **fields) -> SoftPrompt:
    generator = torch.Generator().manual_seed(seed)
    # Counts are whole numbers.
    metrics = {"test": {"accuracy": 0.75, "invalid": 0, "score": 0.75}}
    provenance = Provenance("ept-star", backbone.identity(), backbone.answers, task, metrics, {"initialization": 3})
    vectors = torch.randn(length, backbone.embedding_size, generator=generator) * scale
    return SoftPrompt(vectors, provenance, **fields)


def beginning(prompt, backbone):
    """The prompt as one that begins as the first two tokens of its task's instruction."""
    task = {**prompt.provenance.task, "opening_ids": backbone.tokenizer(whole_text("x")).input_ids[:2]}
    return dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, task=task))


def whole_text(text):
    return f"{TASK['instruction']}\nquestion: {text} sentence{TASK['cue']}"


def generated(backbone, prompt, text, new=20):
    """Our own answer to a text, in token ids."""
    ids = torch.tensor([backbone.tokenizer(text).input_ids])
    batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    return backbone.answer_ids(PromptBatch.of(prompt), batch, max_new_tokens=new)[0].tolist()


def same_answer(found, expected, end):
    """Whether two answers are one up to their ends."""
    cut = [ids[: ids.index(end)] if end in ids else ids for ids in (found, expected)]
    return cut[0] == cut[1] and len(cut[0]) > 0


def padded_left(rows):
    """Ids and mask of rows, with the pads before them."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def positions(compiled, mask):
    """Position ids of a forward pass behind a cache, as `generate` counts them."""
    whole = torch.cat([mask.new_ones(len(mask), compiled.length), mask], 1)
    return {"position_ids": (whole.cumsum(1) - 1)[:, compiled.length :]}


@pytest.fixture(scope="module")
def ready(tiny_model, save_tiny, tmp_path_factory):
    """Backbones and prompts by family, and the folder of their models."""
    root, made = tmp_path_factory.mktemp("exports"), {}
    for family in (*FAMILIES, "mistral"):
        # A window longer than prompt and instruction; the tests of the window have one that is not.
        options = {"sliding_window": 64} if family == "mistral" else {}
        save_tiny(root / family, *tiny_model(family, max_position_embeddings=256, **options)
                  if family != "gpt2" else tiny_model(family, n_positions=256))  # fmt: skip
        backbone = load_backbone(str(root / family), engine="reference")
        made[family] = backbone, prompt_for(backbone, task=RECORD)
    backbone = load_backbone(
        str(save_tiny(root / "bert", *tiny_model("bert"))), answers="linear-head", engine="reference"
    )
    head = LinearHead(torch.randn(3, 16), torch.randn(3))
    made["bert"] = backbone, prompt_for(backbone, task=None, head=head)
    backbone = load_backbone(str(save_tiny(root / "t5", *tiny_model("t5"))), engine="reference")
    made["t5"] = backbone, prompt_for(backbone, task=RECORD, length=2, scale=1e6, repeats=2)
    return root, made


@pytest.fixture(scope="module")
def stock(ready):
    """All exports of the families, and what stock libraries make of them."""
    root, made = ready
    described: dict[str, Any] = {"licence": "mit", "spread": Spread([0.75, 0.8])}
    for family in FAMILIES:
        backbone, prompt = made[family]
        for name, write in (("cache", export_cache), ("baked", export_baked)):
            write(prompt, root / f"{family}-{name}", model=backbone, **described)
    # Of one family, because its script starts a process of its own.
    backbone, prompt = made["gemma"]
    export_embeds(prompt, root / "gemma-embeds", model=backbone, **described)
    backbone, prompt = made["t5"]
    export_limit(prompt, root / "t5-limit", model=backbone, calibration=TEXTS, **described)
    # Two graphs are enough, because the exporter is slow.
    for family in ("gpt2", "bert"):
        backbone, prompt = made[family]
        export_onnx(
            beginning(prompt, backbone) if family == "gpt2" else prompt,
            root / f"{family}-onnx",
            model=backbone,
            **described,
        )
    command = [sys.executable, "-c", STOCK, str(root), *FAMILIES, "bert", "t5"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return made, load_file(root / "kept.safetensors"), root


class TestStockLibraries:
    @pytest.mark.parametrize(
        ("family", "name"), [*itertools.product(FAMILIES, ["cache", "baked"]), ("gemma", "embeds answers")]
    )
    def test_they_answer_as_we_do(self, stock, family, name):
        (made, kept, _), texts = stock, TEXTS if name == "cache" else TEXTS[:1]
        backbone, prompt = made[family]
        for answer, text in zip(kept[f"{family} {name}"].tolist(), texts, strict=True):
            assert same_answer(answer, generated(backbone, prompt, whole_text(text)), backbone.ends[0])

    def test_the_onnx_graph_gives_the_logits_of_the_attached_model(self, stock):
        made, kept, _ = stock
        backbone, prompt = made["gpt2"]
        # The prompt stands in the place of the first two.
        ids = torch.tensor([backbone.tokenizer(whole_text("{film}")).input_ids[2:]])
        assert torch.equal(kept["gpt2 onnx ids"], ids)
        expected = attach(prompt, backbone.model)(input_ids=ids).logits
        torch.testing.assert_close(kept["gpt2 onnx"], expected, rtol=1e-4, atol=1e-4)

    def test_the_onnx_graph_of_an_encoder_gives_the_scores_of_its_head_with_pads_too(self, stock):
        import onnxruntime

        made, kept, root = stock
        backbone, prompt = made["bert"]

        def scores(ids, mask):
            batch = TextBatch(ids, mask.bool(), torch.zeros(len(ids), dtype=torch.long))
            return backbone.label_scores(PromptBatch.of(prompt), batch, [[0], [1], [2]])

        ids = torch.tensor(backbone.tokenizer(["a text"]).input_ids)
        found = kept["bert onnx"].log_softmax(1)
        torch.testing.assert_close(found, scores(ids, torch.ones_like(ids)), rtol=0, atol=1e-5)
        session = onnxruntime.InferenceSession(str(root / "bert-onnx" / "model.onnx"))
        rows = backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
        names = ("input_ids", "attention_mask")
        (logits,) = session.run(None, {name: rows[name].numpy() for name in names})
        expected = scores(rows.input_ids, rows.attention_mask)
        torch.testing.assert_close(torch.from_numpy(logits).log_softmax(1), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("name", "beams"), [("t5 limit", 1), ("t5 limit beams", 3)])
    def test_they_read_the_limit_of_a_t5s_prompt(self, stock, name, beams):
        made, kept, _ = stock
        backbone, prompt = made["t5"]
        rows = backbone.tokenizer([*map(whole_text, TEXTS)], padding=True, return_tensors="pt")
        options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 20}
        assert torch.equal(kept[name], attach(prompt, backbone.model).generate(**rows, **options))

    def test_a_request_for_vllm_is_prompt_and_words_in_the_models_precision(self, stock):
        made, kept, _ = stock
        backbone, prompt = made["gemma"]
        ids = torch.tensor(backbone.tokenizer(whole_text(TEXTS[0])).input_ids)
        assert torch.equal(kept["gemma embeds"], torch.cat([prompt.expanded(), backbone.embed(ids)]))

    def test_every_card_says_what_the_prompt_is_and_how_good(self, stock):
        for name in ("gpt2-cache", "gpt2-baked", "gemma-embeds", "gpt2-onnx", "t5-limit"):
            text, family = (stock[2] / name / "README.md").read_text(), name.partition("-")[0]
            for said in (f"{family}`. ", "---\nlicense: mit\n", "- Task: films", "- Method: ept-star",
                         "- Seeds: initialization 3", "0.775, deviation 0.035 over 2 seeds (0.75 to 0.8)"):  # fmt: skip
                assert said in text, (name, said)

    def test_every_card_says_how_labels_are_scored_and_where_a_text_is_cut(self, stock):
        for name in ("gpt2-cache", "gpt2-baked", "gemma-embeds", "gpt2-onnx", "t5-limit"):
            text = (stock[2] / name / "README.md").read_text()
            assert "Inputs are read up to 256 tokens" in text, name
            assert "the sum of the log-probabilities of its tokens, with the end of sequence" in text, name
        for name, document in (("gpt2-cache", "cache"), ("gemma-embeds", "request"), ("t5-limit", "limit")):
            assert json.loads((stock[2] / name / f"{document}.json").read_text())["max_length"] == 256, name

    @pytest.mark.parametrize(
        ("scoring", "rule"),
        [
            (Scoring(normalize="mean"), "the mean of the log-probabilities of its tokens, with the end of sequence."),
            (Scoring(end=False), "the sum of the log-probabilities of its tokens, without an end of sequence."),
            (Scoring(end=False, normalize="first"), "the log-probability of its first token."),
        ],
    )
    def test_a_card_names_the_prompts_own_rule(self, ready, tmp_path, scoring, rule):
        backbone, prompt = ready[1]["gpt2"]
        provenance = dataclasses.replace(prompt.provenance, scoring=scoring.to_json())
        other = dataclasses.replace(prompt, provenance=provenance)
        for write in (export_peft, export_gguf_recipe):
            folder = write(other, tmp_path / write.__name__, model=backbone.model if write is export_peft else backbone)
            assert rule in (folder / "README.md").read_text()

    def test_a_prompt_that_writes_its_labels_has_no_rule_of_scores(self, ready):
        prompt = ready[1]["gpt2"][1]
        provenance = dataclasses.replace(prompt.provenance, scoring=Scoring(decode="generate").to_json())
        assert "log-probabilit" not in readme(dataclasses.replace(prompt, provenance=provenance))


class TestBaked:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_new_tokens_are_never_chosen_whatever_the_state_is(self, stock, family):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(stock[2] / f"{family}-baked")
        old = stock[0][family][0].embeddings.weight.shape[0]
        states = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)) * 10
        head: Any = model.get_output_embeddings()
        logits = head(states).detach()
        assert bool((logits.argmax(1) < old).all())
        # A mean of the old logits is never above their maximum, even where all of them are negative.
        mean = logits[:, :old].mean(1, keepdim=True).expand(-1, 3)
        torch.testing.assert_close(logits[:, old:], mean, rtol=1e-4, atol=1e-3)
        # The exact bound: none has a higher probability than one of v equal ones.
        assert float(logits.softmax(1)[:, old:].max()) <= 1 / old
        assert model.generation_config.suppress_tokens == [*range(old, old + 3)]

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_model_given_stays_as_it_was(self, stock, family):
        backbone = stock[0][family][0]
        assert backbone.model.get_output_embeddings().weight is backbone.embeddings.weight
        assert len(backbone.tokenizer) == backbone.embeddings.weight.shape[0]

    def test_logits_of_the_old_tokens_are_ours(self, stock):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder, (backbone, prompt) = stock[2] / "gemma-baked", stock[0]["gemma"]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        messages = [{"role": "user", "content": TEXTS[1]}]
        inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
        logits = AutoModelForCausalLM.from_pretrained(folder).eval()(**inputs).logits
        ids = torch.tensor([backbone.tokenizer(whole_text(TEXTS[1])).input_ids])
        expected = attach(prompt, backbone.model)(input_ids=ids).logits
        torch.testing.assert_close(logits[:, 3:, : expected.shape[2]], expected, rtol=1e-5, atol=1e-5)


class TestCompiled:
    @pytest.mark.parametrize("family", [*FAMILIES, "mistral"])
    def test_logits_greedy_text_and_beams_are_those_of_the_prompt(self, ready, family):
        backbone, prompt = ready[1][family]
        model, attached = backbone.model, attach(prompt, backbone.model)
        compiled = compile_prompt(prompt, model=backbone)
        assert compiled.length > prompt.length + 5  # the instruction is in it, too
        ids, mask = padded_left(compiled.encode(TEXTS, backbone.tokenizer))
        rows, ends = backbone.tokenizer([*map(whole_text, TEXTS)]).input_ids, compiled.input_format.ends
        whole, whole_mask = padded_left([row[: len(row) - ends] for row in rows])
        expected = attached(input_ids=whole, attention_mask=whole_mask).logits[:, -1]
        found = model(**compiled.inputs(ids, mask, model.config), **positions(compiled, mask)).logits[:, -1]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        for beams in (1, 3):
            options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
            found = model.generate(**compiled.inputs(ids, mask, model.config, beams=beams), **options)
            expected = attached.generate(whole, attention_mask=whole_mask, **options)
            assert torch.equal(found[:, ids.shape[1] :], expected[:, whole.shape[1] :])

    def test_a_penalty_sees_the_text_and_no_prompt(self, ready):
        backbone, prompt = ready[1]["gpt2"]
        bare = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, task=None))
        compiled = compile_prompt(bare, model=backbone)
        assert (compiled.length, list(compiled.input_format.opening)) == (3, [])
        ids = torch.tensor(compiled.encode(TEXTS[:1], backbone.tokenizer))
        options = {"max_new_tokens": 8, "do_sample": False, "repetition_penalty": 3.0, "pad_token_id": 0}
        inputs = compiled.inputs(ids, torch.ones_like(ids), backbone.model.config)
        found = backbone.model.generate(**inputs, **options)
        assert torch.equal(found, attach(bare, backbone.model).generate(ids, **options))

    def test_a_deep_prompt_is_compiled_too(self, ready):
        backbone, prompt = ready[1]["gpt2"]
        deep = dataclasses.replace(prompt, deep=torch.randn(1, 3, 16) * 5)
        compiled = compile_prompt(deep, model=backbone)
        ids = torch.tensor(compiled.encode(TEXTS[:1], backbone.tokenizer))
        inputs = compiled.inputs(ids, torch.ones_like(ids), backbone.model.config)
        whole = torch.tensor([backbone.tokenizer(whole_text(TEXTS[0])).input_ids])
        expected = attach(deep, backbone.model)(input_ids=whole).logits[:, -1]
        torch.testing.assert_close(backbone.model(**inputs).logits[:, -1], expected, rtol=0, atol=1e-5)

    def test_its_folder_gives_it_back(self, ready, tmp_path):
        backbone, prompt = ready[1]["gemma"]
        folder = export_cache(prompt, tmp_path / "c", model=backbone)
        found, expected = CompiledPrompt.load(folder), compile_prompt(prompt, model=backbone)
        assert all(torch.equal(a, b) for a, b in zip(found.keys, expected.keys, strict=True))
        form, as_made = found.input_format, expected.input_format
        assert (list(form.opening), form.before) == (list(as_made.opening), as_made.before)

    def test_a_window_shorter_than_the_prompt_is_refused(self, tiny_gpt, save_tiny, tmp_path):
        folder = save_tiny(tmp_path / "m", *tiny_gpt("mistral"))
        backbone = load_backbone(str(folder), engine="reference")
        with pytest.raises(CannotExport, match="its window is shorter"):
            compile_prompt(prompt_for(backbone, task=None, length=9), model=backbone)

    def test_a_folder_that_is_none_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match=r"holds no cache\.json"):
            CompiledPrompt.load(tmp_path)


def test_vectors_for_llama_cpp_are_raw_little_endian_floats(ready, tmp_path):
    import numpy as np

    backbone, prompt = ready[1]["gemma"]
    folder = export_gguf_recipe(prompt, tmp_path / "r", model=backbone)
    about = json.loads((folder / "prompt.json").read_text())
    vectors = np.fromfile(folder / "prompt.f32", dtype="<f4").reshape(about["length"], about["width"])
    assert torch.equal(torch.from_numpy(vectors), prompt.expanded())
    assert about["before"] + "x" + about["after"] == whole_text("x")
    assert about["max_length"] == 256
    compile((folder / "run.py").read_text(), "run.py", "exec")


def test_a_request_holds_what_the_api_reads(ready):
    backbone, prompt = ready[1]["gpt2"]
    body = completion_request(prompt, "a text", model=backbone, max_tokens=3, logprobs=1)
    assert {name: body[name] for name in ("prompt", "max_tokens", "temperature", "logprobs")} == {
        "prompt": "", "max_tokens": 3, "temperature": 0, "logprobs": 1,
    }  # fmt: skip
    json.dumps(body)


def test_a_baked_template_may_hold_an_emoji(ready, tmp_path):
    from transformers import AutoTokenizer

    backbone, prompt = ready[1]["gpt2"]
    task = {**prompt.provenance.task, "instruction": "Which mood \U0001f600 ?"}
    other = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, task=task))
    baked = export_baked(other, tmp_path / "baked", model=backbone)
    assert "\U0001f600" in AutoTokenizer.from_pretrained(baked).chat_template


@pytest.mark.parametrize(("write", "what"), [(export_baked, "the baked model"), (export_onnx, "the ONNX graph")])
def test_a_full_disk_is_a_failure_of_storage_and_what_a_killed_export_left_is_removed(write, what, ready, tmp_path):
    backbone, prompt = ready[1]["gpt2"]
    left = tmp_path / ".x.0123abcd.tmp"
    left.mkdir()
    os.utime(left, (time.time() - 700, time.time() - 700))
    full = pytest.raises(StorageFailure, match=f"could not write {what} to .*; free some space")
    with file_limit(6000), full:
        write(prompt, tmp_path / "x", model=backbone)
    assert list(tmp_path.iterdir()) == []


class TestRefused:
    @pytest.mark.parametrize("write", [export_cache, export_baked, export_embeds, export_gguf_recipe])
    def test_prompts_of_other_kinds_of_models(self, tiny_t5, save_tiny, tmp_path, write):
        backbone = load_backbone(str(save_tiny(tmp_path / "m", *tiny_t5())), engine="reference")
        with pytest.raises(CannotExport, match="is for prompts of decoders"):
            write(prompt_for(backbone, task=None), tmp_path / "x", model=backbone)
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize("write", [export_baked, export_embeds, export_gguf_recipe, export_onnx])
    def test_deep_prompts_where_one_layer_is_held(self, ready, tmp_path, write):
        backbone, prompt = ready[1]["gpt2"]
        with pytest.raises(CannotExport, match="vectors for 2 layers"):
            write(dataclasses.replace(prompt, deep=torch.ones(1, 3, 16)), tmp_path / "x", model=backbone)

    @pytest.mark.parametrize("write", [export_baked, export_cache, export_embeds, export_gguf_recipe, export_onnx])
    def test_a_model_at_another_scale_with_what_to_do(self, ready, tmp_path, write):
        _, made = ready
        scaled = load_backbone(made["gpt2"][0].name, engine="reference", embedding_scale=4.0)
        prompt = prompt_for(scaled, task=RECORD)
        with pytest.raises(CannotExport, match=r"is loaded at embedding scale 4, .*; leave model out"):
            write(prompt, tmp_path / "x", model=scaled)
        if write is export_gguf_recipe:
            write(prompt, tmp_path / "x")
            assert len((tmp_path / "x" / "prompt.f32").read_bytes()) == 4 * prompt.vectors.numel()

    def test_a_linear_probe_for_onnx(self, tiny_bert, tmp_path):
        backbone = from_model(*tiny_bert(), answers="linear-head")
        head = LinearHead(torch.ones(2, 16), torch.zeros(2))
        probe = SoftPrompt(torch.ones(0, 16), Provenance("linear-probe", backbone.identity(), "linear-head"), head=head)
        with pytest.raises(CannotExport, match="a head without a prompt, ONNX is for prompts of at least one vector"):
            export_onnx(probe, tmp_path / "x", model=backbone)

    def test_a_baked_model_in_int8_or_with_adapters(self, ready, tmp_path, tiny_gpt):
        from peft import LoraConfig, get_peft_model

        backbone, prompt = ready[1]["gpt2"]
        model, tokenizer = tiny_gpt("gpt2", n_positions=256)
        adapted = from_model(get_peft_model(model, LoraConfig(fan_in_fan_out=True)), tokenizer, name=backbone.name)
        with pytest.raises(CannotExport, match=r"has layers of PEFT .*; load it plain, adapters merged"):
            export_baked(dataclasses.replace(prompt), tmp_path / "x", model=adapted)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbone, "quantize", "int8")
            with pytest.raises(CannotExport, match="is in int8"):
                export_baked(prompt, tmp_path / "x", model=backbone)
        assert not (tmp_path / "x").exists()

    def test_a_task_of_two_columns(self, ready, tmp_path):
        backbone, prompt = ready[1]["gpt2"]
        task = {**prompt.provenance.task, "template": "{premise} {hypothesis}"}
        other = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, task=task))
        with pytest.raises(CannotExport, match="several columns"):
            export_cache(other, tmp_path / "x", model=backbone)


class TestCommand:
    def test_export_and_compile_write_what_the_functions_write(self, ready, tmp_path, capsys):
        _, made = ready
        prompt = save_prompt(made["gpt2"][1], tmp_path / "p")
        assert main(["compile", str(prompt), "--output", str(tmp_path / "a"), "--license", "mit"]) == 0
        assert (
            main(["export", str(prompt), "--format", "cache", "--license", "mit", "--output", str(tmp_path / "b")]) == 0
        )
        assert capsys.readouterr().out.split() == [str(tmp_path / "a"), str(tmp_path / "b")]
        for name in ("cache.json", "cache.safetensors"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert "license: mit" in (tmp_path / "a" / "README.md").read_text()

    def test_doctor_checks_a_folder_for_peft_and_a_compiled_t5(self, ready, tmp_path):
        backbone, prompt = ready[1]["t5"]
        export_limit(prompt, tmp_path / "limit", model=backbone, calibration=TEXTS)
        export_peft(prompt, tmp_path / "peft", model=backbone.model)
        for name, changed in (("limit", "limit.safetensors"), ("peft", "adapter_config.json")):
            folder = tmp_path / name
            assert list(damage_of(folder)) == []
            (folder / changed).write_bytes(b"{}")
            (line,) = damage_of(folder)
            assert changed in line

    @pytest.mark.parametrize("options", [["--model", "lab-gpt"], ["--format", "npy", "--license", "mit"]])
    def test_vectors_alone_take_no_model_and_a_file_of_them_no_licence(self, ready, tmp_path, capsys, options):
        prompt = save_prompt(ready[1]["gpt2"][1], tmp_path / "p")
        assert main(["export", str(prompt), "--output", str(tmp_path / "a"), *options]) == 2
        assert "takes no --model, and only peft takes --license" in capsys.readouterr().err

    def test_a_folder_for_peft_has_the_same_card(self, ready, tmp_path, capsys):
        prompt = save_prompt(ready[1]["gpt2"][1], tmp_path / "p")
        assert main(["export", str(prompt), "--output", str(tmp_path / "a"), "--license", "mit"]) == 0
        text = (tmp_path / "a" / "README.md").read_text()
        assert text.startswith("---\nlicense: mit\n")
        for said in ("- Task: films", "- Method: ept-star", "- Seeds: initialization 3", "- test accuracy: 0.75",
                     "0.75 from one seed; its spread over seeds is not known", "## Load"):  # fmt: skip
            assert said in text, said


def test_the_spread_is_that_of_the_prompts_of_the_run_that_differ_in_seeds(ready, tmp_path):
    prompt = ready[1]["gpt2"][1]
    run = tmp_path / "run"
    for number, (score, length, hidden) in enumerate([(0.7, 3, 1), (0.8, 3, 1), (0.9, 2, 1), (0.3, 3, 4)]):
        training = {**prompt.provenance.training, "options": {"hidden": hidden}, "best_step": number}
        provenance = dataclasses.replace(prompt.provenance, metrics={"test": {"score": score}}, training=training)
        save_prompt(SoftPrompt(prompt.vectors[:length], provenance), run / f"p{number}" / "prompt")
    (run / "run.json").write_text("{}")
    first = SoftPrompt.load(run / "p0" / "prompt")
    assert str(spread_of(first, run / "p0")) == "0.75, deviation 0.071 over 2 seeds (0.7 to 0.8)"
    assert "its spread over seeds is not known" in str(spread_of(prompt, tmp_path / "elsewhere"))
