"""What a stranger's prompt may not do."""

import json
import os

import pytest
import torch
from safetensors.torch import save
from softprompt.documents import Limits
from softprompt.errors import BadInput, DamagedFile
from softprompt.store import from_document, read_prompt, read_tensors, save_prompt

from store_kit import a_prompt, forge, forged_prompt


class TestHostilePrompts:
    """What a stranger can put into a folder with true hashes; each refused with a typed error of one line."""

    @pytest.mark.parametrize("more", [2, 65])
    def test_more_dimensions_than_a_prompt_has(self, tmp_path, more):
        folder = forged_prompt(tmp_path, {"vectors": torch.ones(2, 6).view([1] * more + [2, 6])})
        with pytest.raises(BadInput, match=r"'vectors' in .* dimensions"):
            read_prompt(folder)
        document = json.loads((folder / "prompt.json").read_text())
        with pytest.raises(BadInput, match=f"has {more + 2} dimensions, a stored prompt at most 3"):
            from_document(document, {"vectors": torch.ones(2, 6).view([1] * more + [2, 6])}, "x")

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_numbers_that_are_not_finite(self, tmp_path, value):
        vectors = torch.ones(2, 6)
        vectors[1, 3] = value
        with pytest.raises(BadInput, match="NaN or infinity"):
            read_prompt(forged_prompt(tmp_path, {"vectors": vectors}))
        head = {"head.weight": torch.ones(3, 6), "head.bias": vectors[1, 2:5]}
        with pytest.raises(BadInput, match=r"'head\.bias' in .* holds NaN or infinity"):
            read_prompt(forged_prompt(tmp_path / "head", {"vectors": torch.ones(2, 6), **head}))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int32])
    def test_another_dtype(self, tmp_path, dtype):
        with pytest.raises(BadInput, match=r"a stored prompt is torch\.float32"):
            read_prompt(forged_prompt(tmp_path, {"vectors": torch.ones(2, 6, dtype=dtype)}))

    @pytest.mark.parametrize("shape", [(2, 5), (2, 7), (0, 6), (2, 0), (12,), (1, 2, 6), (0,), ()])
    def test_another_shape_than_the_backbone_needs(self, tmp_path, shape):
        with pytest.raises(BadInput, match=r"needed is \(length, 6\)"):
            read_prompt(forged_prompt(tmp_path, {"vectors": torch.ones(shape)}))

    def test_sizes_that_contradict_the_document(self, tmp_path):
        with pytest.raises(DamagedFile, match="other sizes"):
            read_prompt(forged_prompt(tmp_path, shapes__vectors=[3, 6]))

    @pytest.mark.parametrize("repeats", [0, -1, 2**40, 2**70, "5", 1.5, None])
    def test_repeats_that_make_no_prompt(self, tmp_path, repeats):
        with pytest.raises((BadInput, DamagedFile)):
            read_prompt(forged_prompt(tmp_path, repeats=repeats))

    @pytest.mark.parametrize("rows", [2**40, 2**62])
    def test_a_header_that_promises_a_huge_tensor(self, tmp_path, rows):
        header = json.dumps({"vectors": {"dtype": "F32", "shape": [rows, 6], "data_offsets": [0, 48]}}).encode()
        raw = len(header).to_bytes(8, "little") + header + bytes(48)
        with pytest.raises(DamagedFile, match="not a whole safetensors file"):
            read_prompt(forged_prompt(tmp_path, raw=raw))

    def test_a_huge_tensor_of_holes_is_refused_before_it_is_read(self, tmp_path):
        size = 4 * 6 * 2**32
        header = json.dumps({"vectors": {"dtype": "F32", "shape": [2**32, 6], "data_offsets": [0, size]}}).encode()
        folder = forged_prompt(tmp_path, raw=len(header).to_bytes(8, "little") + header)
        os.truncate(folder / "prompt.safetensors", 8 + len(header) + size)
        with pytest.raises(BadInput, match=r"--limit prompt_numbers=\d+ COMMAND"):
            read_tensors(folder / "prompt.safetensors")
        with pytest.raises(BadInput, match="a prompt has at most"):
            read_prompt(folder)

    def test_huge_zero_sized_tensors(self, tmp_path):
        header = json.dumps({"vectors": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}}).encode()
        with pytest.raises(DamagedFile, match="other sizes"):
            read_prompt(forged_prompt(tmp_path, raw=len(header).to_bytes(8, "little") + header))

    @pytest.mark.parametrize("length", [2**62, 2**21, 3, 0])
    def test_a_header_of_a_false_length(self, tmp_path, length):
        with pytest.raises(DamagedFile, match="safetensors file"):
            read_prompt(forged_prompt(tmp_path, raw=length.to_bytes(8, "little") + b"{}" + bytes(100)))

    def test_a_header_larger_than_any_of_ours(self, tmp_path):
        raw = save({"vectors": torch.ones(2, 6)}, metadata={"bomb": "x" * 2**21})
        with pytest.raises(DamagedFile, match="header is damaged"):
            read_prompt(forged_prompt(tmp_path, raw=raw))

    def test_a_pickle_in_place_of_the_tensors(self, tmp_path):
        torch.save({"vectors": torch.ones(2, 6)}, tmp_path / "p.pt")
        with pytest.raises(DamagedFile, match="safetensors file"):
            read_prompt(forged_prompt(tmp_path, raw=(tmp_path / "p.pt").read_bytes()))

    def test_more_numbers_than_a_prompt_has(self, tmp_path, monkeypatch):
        path = tmp_path / "big.safetensors"
        path.write_bytes(save({"vectors": torch.zeros(2**10 + 1, 16)}))
        monkeypatch.setattr("softprompt.documents._limits.now", lambda: Limits(prompt_numbers=2**14))
        with pytest.raises(BadInput, match=r"holds 16400 numbers, the limit is 16384; if that is meant: .*--limit"):
            read_tensors(path)
        assert len(read_tensors(path, is_bounded=False)["vectors"]) == 2**10 + 1
        assert Limits().prompt_numbers * 4 < 300e6

    def test_a_deep_prompt_of_a_large_model_can_be_read_again(self):
        # 100 vectors in all 40 layers of a model of 13 billion weights.
        assert Limits().prompt_numbers > 100 * 40 * 5120

    @pytest.mark.parametrize("name", ["../stolen", "/etc/passwd", "a/b", "", ".hidden", "..", "C:\\x", "a\x00b"])
    def test_a_manifest_that_lists_what_is_no_file_name(self, tmp_path, name):
        folder = save_prompt(a_prompt(), tmp_path / "p")
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = manifest["files"].pop("prompt.json")
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / "manifest.json").write_text(text)
        with pytest.raises(DamagedFile, match="no plain file name"):
            read_prompt(folder)

    @pytest.mark.parametrize("name", ["prompt.safetensors", "prompt.json", "manifest.json"])
    def test_a_link_in_place_of_a_file(self, tmp_path, name):
        folder = save_prompt(a_prompt(), tmp_path / "p")
        os.rename(folder / name, tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", folder / name)
        with pytest.raises(DamagedFile, match="is a link"):
            read_prompt(folder)

    def test_a_pipe_in_place_of_a_file(self, tmp_path):
        folder = save_prompt(a_prompt(), tmp_path / "p")
        (folder / "prompt.json").unlink()
        os.mkfifo(folder / "prompt.json")  # opening it would wait for ever
        with pytest.raises(DamagedFile, match="special file"):
            read_prompt(folder)

    def test_a_document_nested_deeper_than_python_reads(self, tmp_path):
        deep = b'{"format": ' + b"[" * 200_000
        folder = forge(tmp_path / "p", {"prompt.safetensors": b"", "prompt.json": deep})
        with pytest.raises(DamagedFile, match="is not JSON"):
            read_prompt(folder)

    def test_a_document_larger_than_ours(self, tmp_path):
        folder = forge(tmp_path / "p", {"prompt.safetensors": b"", "prompt.json": b" " * (5 * 2**20)})
        with pytest.raises(BadInput, match="too large to be ours"):
            read_prompt(folder)

    @pytest.mark.parametrize(
        "changes",
        [
            {"provenance": None},
            {"provenance": []},
            {"provenance__method": {}},
            {"provenance__surprise": 1},
            {"provenance__backbone": "t5"},
            {"provenance__backbone__embedding_size": "6"},
            {"provenance__backbone__embedding_size": True},
            {"provenance__backbone__embedding_sha256": 5},
            {"provenance__seeds": {"order": "three"}},
            {"provenance__backbone": {"name": "t5", "kind": "encoder"}},
        ],
    )
    def test_a_document_whose_values_are_not_what_they_should_be(self, tmp_path, changes):
        with pytest.raises(BadInput):
            read_prompt(forged_prompt(tmp_path, **changes))

    @pytest.mark.parametrize(
        "tensors",
        [
            {"other": torch.ones(2, 6)},
            {"vectors": torch.ones(2, 6), "head.weight": torch.ones(2, 4)},
            {"vectors": torch.ones(2, 6), "head.weight": torch.ones(2, 4), "head.bias": torch.ones(3)},
            {"vectors": torch.ones(2, 6), "head.weight": torch.ones(0, 4), "head.bias": torch.ones(0)},
            {"vectors": torch.ones(2, 6), "head.weight": torch.ones(2), "head.bias": torch.ones(2)},
        ],
    )
    def test_tensors_that_are_no_prompt_and_head(self, tmp_path, tensors):
        with pytest.raises(BadInput):
            read_prompt(forged_prompt(tmp_path, tensors))

    def test_a_newer_format_asks_for_an_upgrade(self, tmp_path):
        with pytest.raises(BadInput, match="format 2, this softprompt reads 1; upgrade"):
            read_prompt(forged_prompt(tmp_path, format=2))

    def test_every_message_is_one_line(self, tmp_path):
        with pytest.raises(BadInput) as refused:
            read_prompt(forged_prompt(tmp_path, {"vectors": torch.ones(2, 5)}))
        assert "\n" not in str(refused.value)

    def test_a_peft_folder_is_sent_to_import(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(BadInput, match="softprompt import"):
            read_prompt(tmp_path)
