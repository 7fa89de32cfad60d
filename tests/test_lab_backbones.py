"""Built-in backbones: what is shipped is what is loaded, by a name that means the same everywhere."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from experiments.pretraining.weights import write_backbone, write_manifest
from softprompt import builtin as backbones
from softprompt.backbones import load_backbone
from softprompt.builtin import BUILT_IN, copy_backbone, folder_of
from softprompt.cli import main
from softprompt.errors import BadInput, DamagedFile, UnknownName
from softprompt.inference.predict import kept_model, loaded_model
from softprompt.interop.peft import export_peft
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.settings import ModelSpec, PromptSettings, TrainSettings
from softprompt.training import read_plan, train

from kit import review_task, same_files, together


@pytest.fixture(scope="module")
def shipped(tiny_t5, tiny_bert, tmp_path_factory):
    """A folder as it is shipped, with two of the backbones."""
    root = tmp_path_factory.mktemp("weights")
    written(tiny_t5(), root / "lab-t5")
    written(tiny_bert(), root / "lab-bert")
    write_manifest(root)
    return root


@pytest.fixture
def weights(shipped, tmp_path, monkeypatch):
    """The same, for the test alone."""
    import shutil

    root = Path(shutil.copytree(shipped, tmp_path / "weights"))
    monkeypatch.setattr(backbones, "WEIGHTS", root)
    # Other tests of this process may have answered with the model that is shipped under the same name.
    loaded_model.cache_clear()
    yield root
    loaded_model.cache_clear()


def written(made, folder, **options):
    model, tokenizer = made
    return write_backbone(model, tokenizer, folder, **options)


def test_threads_load_models_one_after_another(weights):
    """transformers replaces functions of its own while it loads; overlapping loads leave them replaced for good."""
    together(*[lambda: load_backbone("lab-t5")] * 4)
    assert load_backbone("lab-t5").kind == "encoder-decoder"
    assert load_backbone("lab-bert").answers == "label-words"


def test_threads_share_a_kept_model(weights):
    found = together(*[lambda: kept_model(ModelSpec("lab-t5"))] * 4)
    assert len({id(backbone) for backbone in found}) == 1


def halved(model):
    return {name: value.half().float() for name, value in model.state_dict().items()}


class TestWriting:
    def test_plain_transformers_reads_the_folder_and_computes_in_float32(self, shipped, tiny_t5):
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        model, tokenizer = tiny_t5()
        found = AutoModelForSeq2SeqLM.from_pretrained(shipped / "lab-t5")
        assert found.dtype == torch.float32
        expected = halved(model)
        assert found.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
        text = "a very good film"
        assert AutoTokenizer.from_pretrained(shipped / "lab-t5")(text).input_ids == tokenizer(text).input_ids

    @pytest.mark.parametrize("family", ["t5", "bert", "gpt2", "llama"])
    def test_the_same_model_gives_the_same_bytes_and_stays_as_it_is(self, family, tiny_model, tmp_path):
        model, tokenizer = tiny_model(family)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        one = write_backbone(model, tokenizer, tmp_path / "one")
        other = written(tiny_model(family), tmp_path / "elsewhere" / "other")
        assert same_files(one, other)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        # Half the bytes, tied tables once, and nothing of where and with what it was written.
        numbers = sum(parameter.numel() for parameter in model.parameters())
        assert (one / "model.safetensors").stat().st_size < 2 * numbers + 10_000
        for path in one.glob("*.json"):
            assert str(tmp_path) not in path.read_text()
            assert "transformers_version" not in path.read_text()

    def test_what_was_loaded_is_written_as_it_was(self, shipped, tmp_path):
        for name in ("lab-t5", "lab-bert"):
            loaded = load_backbone(shipped / name)
            assert same_files(shipped / name, write_backbone(loaded.model, loaded.tokenizer, tmp_path / name))

    def test_numbers_beyond_float16_are_refused_and_nothing_is_written(self, tiny_t5, tmp_path):
        model, tokenizer = tiny_t5()
        model.shared.weight.data[0, 0] = 1e5
        with pytest.raises(BadInput, match=r"shared.weight holds numbers beyond float16"):
            write_backbone(model, tokenizer, tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_a_backbone_is_exchanged_only_when_asked(self, tiny_t5, tmp_path):
        written(tiny_t5(), tmp_path / "model")
        with pytest.raises(BadInput, match="exists already"):
            written(tiny_t5(seed=1), tmp_path / "model")
        written(tiny_t5(seed=1), tmp_path / "model", replace=True)
        assert same_files(tmp_path / "model", written(tiny_t5(seed=1), tmp_path / "other"))

    def test_the_manifest_lists_every_file_of_those_that_are_there(self, shipped):
        import hashlib

        listed = json.loads((shipped / "MANIFEST.json").read_text())
        assert set(listed) == {"lab-t5", "lab-bert"}
        for name, files in listed.items():
            assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files.keys()
            assert files == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (shipped / name).iterdir()}


class TestLoading:
    def test_a_name_loads_its_folder_and_is_kept(self, weights, tiny_t5):
        backbone = load_backbone("lab-t5")
        assert (backbone.name, backbone.kind, backbone.dtype) == ("lab-t5", "encoder-decoder", torch.float32)
        expected = halved(tiny_t5()[0])
        assert all(torch.equal(value, expected[name]) for name, value in backbone.model.state_dict().items())
        assert load_backbone("lab-bert").answers == "label-words"
        assert load_backbone("lab-t5", embedding_scale=32.0).embedding_scale == 32

    def test_a_trained_prompt_names_it_and_finds_it_again(self, weights, tmp_path, monkeypatch):
        task = review_task(tmp_path / "rows")
        settings = TrainSettings(steps=2, batch_size=4)
        run = train(task, "lab-t5", prompts=[PromptSettings()], settings=settings, output=tmp_path / "run")
        assert read_plan(run.folder).model.name == run.prompt().provenance.backbone.name == "lab-t5"
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert run.prompt().predict(["very good"])[0]["label"] in ("good", "bad")

    @pytest.mark.parametrize(
        ("damage", "what"),
        [
            (lambda root: (root / "lab-t5" / "tokenizer.json").unlink(), "its tokenizer.json is missing"),
            (lambda root: (root / "lab-t5" / "config.json").write_text("{}"), "its config.json is not what was ship"),
            (lambda root: flip(root / "lab-t5" / "model.safetensors"), "its model.safetensors is not what was ship"),
            (lambda root: (root / "lab-t5" / "adapter_config.json").touch(), "adapter_config.json beside its files"),
            (lambda root: (root / "MANIFEST.json").unlink(), "MANIFEST.json does not list it"),
            (lambda root: (root / "MANIFEST.json").write_text("[]"), "MANIFEST.json does not list it"),
            (lambda root: (root / "MANIFEST.json").write_text('{"lab-t5": 3}'), "MANIFEST.json does not list it"),
            (lambda root: (root / "MANIFEST.json").write_text('{"lab-bert": {}}'), "MANIFEST.json does not list it"),
        ],
    )
    def test_a_damaged_file_is_one_line_that_says_what_to_do(self, damage, what, weights, capsys):
        damage(weights)
        with pytest.raises(DamagedFile) as caught:
            load_backbone("lab-t5")
        message = str(caught.value)
        assert what in message
        assert message.startswith("the built-in backbone 'lab-t5' is damaged: ")
        assert message.endswith("; reinstall softprompt, or run python -m experiments.pretraining lab-t5")
        assert "\n" not in message
        # The others are checked each on its own.
        if "MANIFEST" not in what:
            assert folder_of("lab-bert") == weights / "lab-bert"

    def test_a_hidden_file_of_a_file_manager_is_no_damage(self, weights):
        (weights / "lab-t5" / ".DS_Store").touch()
        assert folder_of("lab-t5") == weights / "lab-t5"

    def test_an_unknown_name_names_the_nearest(self, weights, tmp_path):
        for call in (folder_of, load_backbone):
            with pytest.raises(UnknownName, match=r"unknown built-in backbone 'lab-t6'. Did you mean 'lab-t5'\?"):
                call("lab-t6")
        # Before rows are read.
        with pytest.raises(UnknownName, match="Did you mean 'lab-gpt'"):
            train("glue/sst2", "lab-gpt2", output=tmp_path / "run", data_root=tmp_path)
        assert not (tmp_path / "run").exists()

    def test_a_built_in_name_wins_over_a_folder_here_which_has_a_path(
        self, weights, tiny_t5, save_tiny, tmp_path, monkeypatch, caplog
    ):
        monkeypatch.chdir(tmp_path)
        save_tiny(Path("lab-t5"), *tiny_t5(seed=1))
        save_tiny(Path("lab-mine"), *tiny_t5(seed=1))
        with caplog.at_level(logging.WARNING, "softprompt"):
            built_in = load_backbone("lab-t5")
        assert "'lab-t5' is the backbone that softprompt brings; the folder here is ./lab-t5" in caplog.text
        mine = load_backbone("lab-mine").identity().embedding_sha256
        for way in ("./lab-t5", Path("lab-t5"), Path("./lab-t5"), tmp_path / "lab-t5"):
            backbone = load_backbone(way)
            assert backbone.identity().embedding_sha256 == mine != built_in.identity().embedding_sha256
            # What is recorded means the folder too.
            assert load_backbone(backbone.name).identity() == backbone.identity()

    def test_names_are_told_without_torch(self):
        code = "import sys, softprompt.builtin as b; print(len(b.BUILT_IN), 'torch' in sys.modules)"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.split() == [str(len(BUILT_IN)), "False"]


class TestCopy:
    def test_the_command_writes_what_is_shipped(self, weights, tmp_path, capsys):
        assert main(["lab", "copy", "lab-t5", str(tmp_path / "copy")]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "copy")
        assert same_files(weights / "lab-t5", tmp_path / "copy")
        copied, built_in = load_backbone(tmp_path / "copy").identity(), load_backbone("lab-t5").identity()
        assert copied.embedding_sha256 == built_in.embedding_sha256

    def test_it_refuses_a_folder_that_exists_and_a_name_that_does_not(self, weights, tmp_path, capsys):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        for words, what in ((["lab-t5", str(tmp_path / "full")], "exists already"), (["lab-x", "f"], "Did you mean")):
            assert main(["lab", "copy", *words]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert what in line
        assert os.listdir(tmp_path / "full") == ["file"]

    def test_a_damaged_backbone_is_not_copied(self, weights, tmp_path):
        flip(weights / "lab-t5" / "model.safetensors")
        with pytest.raises(DamagedFile):
            copy_backbone("lab-t5", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


def test_an_exported_prompt_says_where_its_backbone_comes_from(weights, tmp_path):
    backbone = load_backbone("lab-t5")
    prompt = SoftPrompt(torch.ones(2, 16), Provenance("prompt-tuning", backbone.identity()))
    folder = export_peft(prompt, tmp_path / "peft")
    assert "softprompt lab copy lab-t5 lab-t5" in (folder / "README.md").read_text()
    assert json.loads((folder / "adapter_config.json").read_text())["num_layers"] == 2


def flip(path: Path):
    """One bit of the last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
