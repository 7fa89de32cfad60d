import errno
import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from softprompt.documents import Limits
from softprompt.errors import BadInput, DamagedFile, SoftPromptError, StorageFailure
from softprompt.prompts.prompt import BackboneIdentity, LinearHead, Provenance, SoftPrompt
from softprompt.store import (
    find_prompt,
    from_document,
    latest_checkpoint,
    read_folder,
    read_prompt,
    read_tensors,
    save_checkpoint,
    save_prompt,
    write_file,
    write_folder,
)

from tiny import ALL


def a_prompt(m=2, e=6, repeats=5, classes=3, seed=0) -> SoftPrompt:
    generator = torch.Generator().manual_seed(seed)
    head = LinearHead(torch.randn(classes, 4, generator=generator), torch.randn(classes, generator=generator))
    provenance = Provenance(
        method="ept-star",
        backbone=BackboneIdentity("a/model", "encoder", e, "0" * 64),
        answers="linear-head",
        task={"name": "glue/sst2", "labels": ["0", "1"], "template": "sentence: {sentence} \u2014"},
        metrics={"validation": {"accuracy": 0.1 + 0.2}},
        seeds={"initialization": 3, "order": 4},
        training={"lr": 0.3, "best_step": 200},
        versions={"torch": "2.13.0"},
    )
    vectors = torch.randn(m, e, generator=generator)
    return SoftPrompt(vectors, provenance, repeats, head if classes else None)


def equal(one: SoftPrompt, other: SoftPrompt) -> bool:
    heads = [(p.head.weight, p.head.bias) if p.head else () for p in (one, other)]
    return (
        torch.equal(one.vectors, other.vectors)
        and (one.repeats, one.provenance) == (other.repeats, other.provenance)
        and len(heads[0]) == len(heads[1])
        and all(torch.equal(a, b) for a, b in zip(*heads, strict=True))
    )


def forge(folder: Path, contents: dict[str, bytes]) -> Path:
    """A folder with a truthful manifest over dishonest files: what a stranger can make."""
    files = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
    text = json.dumps({"format": 1, "files": files}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**contents, "manifest.json": text.encode()}.items():
        (folder / name).write_bytes(content)
    return folder


def forged_prompt(folder: Path, tensors=None, *, raw: bytes | None = None, **changes) -> Path:
    """The folder of a good prompt, with other tensors or bytes, a changed document, and true hashes."""
    good = save_prompt(a_prompt(classes=0), folder / "good")
    document = json.loads((good / "prompt.json").read_text())
    tensors = {"vectors": torch.ones(2, 6)} if tensors is None else tensors
    document["shapes"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[last] = value
    content = save(tensors) if raw is None else raw
    return forge(folder / "bad", {"prompt.safetensors": content, "prompt.json": json.dumps(document).encode()})


class TestStoredPrompts:
    @pytest.mark.parametrize(("m", "repeats", "classes"), [(10, 1, 0), (1, 10, 0), (2, 5, 3), (0, 1, 3)])
    def test_a_prompt_comes_back_bit_for_bit_with_all_it_says(self, tmp_path, m, repeats, classes):
        prompt = a_prompt(m=m, repeats=repeats, classes=classes)
        assert equal(read_prompt(save_prompt(prompt, tmp_path / "p")), prompt)

    def test_subnormal_and_huge_numbers_keep_their_bits(self, tmp_path):
        tiny, huge = torch.finfo(torch.float32).smallest_normal / 3, torch.finfo(torch.float32).max
        vectors = torch.tensor([[tiny, -0.0, huge, -huge, 0.1, 1 / 3]])
        prompt = SoftPrompt(vectors, a_prompt().provenance)
        loaded = read_prompt(save_prompt(prompt, tmp_path / "p"))
        assert torch.equal(loaded.vectors.view(torch.int32), vectors.view(torch.int32))

    def test_a_score_that_is_not_a_number_is_stored_as_null(self, tmp_path):
        provenance = Provenance(
            "ept", BackboneIdentity("m", "encoder", 6), metrics={"validation": {"f1": float("nan")}}
        )
        folder = save_prompt(SoftPrompt(torch.ones(1, 6), provenance), tmp_path / "p")
        assert "NaN" not in (folder / "prompt.json").read_text()
        assert read_prompt(folder).provenance.metrics == {"validation": {"f1": None}}

    def test_a_prompt_is_never_written_over_another_unless_asked(self, tmp_path):
        first, second = a_prompt(seed=1), a_prompt(seed=2)
        folder = save_prompt(first, tmp_path / "p")
        with pytest.raises(BadInput, match="exists already"):
            save_prompt(second, folder)
        assert equal(read_prompt(folder), first)
        assert equal(read_prompt(save_prompt(second, folder, replace=True)), second)
        assert os.listdir(tmp_path) == ["p"]

    def test_a_folder_of_the_user_is_never_replaced(self, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").write_text("precious")
        with pytest.raises(BadInput, match="not a folder of ours"):
            save_prompt(a_prompt(), tmp_path / "thesis", replace=True)
        assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"

    def test_a_prompt_replaced_by_a_killed_process_is_still_there(self, tmp_path):
        folder = save_prompt(a_prompt(seed=1), tmp_path / "p")
        os.rename(folder, tmp_path / ".p.old")  # killed between the two renames of an exchange
        assert equal(read_prompt(find_prompt(folder)), a_prompt(seed=1))
        save_prompt(a_prompt(seed=2), folder)
        assert equal(read_prompt(folder), a_prompt(seed=2))
        assert os.listdir(tmp_path) == ["p"]

    def test_the_folder_has_the_permissions_of_any_other(self, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "file").touch()
        folder = save_prompt(a_prompt(), tmp_path / "p")
        assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode
        assert (folder / "prompt.safetensors").stat().st_mode == (tmp_path / "file").stat().st_mode


class TestFindingAPrompt:
    def run_with(self, folder: Path, *prompts: str) -> Path:
        folder.mkdir()
        (folder / "run.json").write_text("{}")
        for prompt in prompts:
            save_prompt(a_prompt(), folder / prompt / "prompt")
        return folder

    def test_the_only_prompt_of_a_run_is_found_from_the_run_from_its_folder_and_from_itself(self, tmp_path):
        run = self.run_with(tmp_path / "run", "ept-s0")
        (run / "checkpoints").mkdir()
        prompt = run / "ept-s0" / "prompt"
        assert find_prompt(run) == find_prompt(run / "ept-s0") == find_prompt(prompt) == prompt

    def test_several_prompts_are_named_and_none_is_picked(self, tmp_path):
        run = self.run_with(tmp_path / "run", "ept-s0", "ept-s1")
        with pytest.raises(BadInput, match=r"several prompts: ept-s0, ept-s1; give one, as in .*run/ept-s0'"):
            find_prompt(run)
        for number in range(2, 9):
            (run / f"ept-s{number}" / "prompt").mkdir(parents=True)
        with pytest.raises(BadInput, match=r"several prompts: ept-s0, ept-s1, ept-s2, ept-s3, ept-s4, 4 more; give"):
            find_prompt(run)

    def test_a_run_without_a_prompt_says_so(self, tmp_path):
        with pytest.raises(BadInput, match="has stored no prompt yet"):
            find_prompt(self.run_with(tmp_path / "run"))

    def test_a_path_that_is_not_there_says_so(self, tmp_path):
        with pytest.raises(BadInput, match="is not a folder"):
            find_prompt(tmp_path / "nowhere")


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


class TestDamage:
    def damaged(self, rng: random.Random, folder: Path):
        """Damage one file by one flipped bit or a cut, yield what was done, and mend it."""
        path = rng.choice(sorted(folder.iterdir()))
        content = path.read_bytes()
        if rng.random() < 0.8:
            place, bit = rng.randrange(len(content)), rng.randrange(8)
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            yield f"{path.name}: bit {bit} of byte {place}"
        else:
            length = rng.randrange(len(content))
            path.write_bytes(content[:length])
            yield f"{path.name}: cut to {length}"
        path.write_bytes(content)

    def test_every_flipped_bit_and_cut_in_a_stored_prompt_is_detected(self, tmp_path):
        folder, rng = save_prompt(a_prompt(), tmp_path / "p"), random.Random(0)
        for _ in range(2000):
            for what in self.damaged(rng, folder):
                try:
                    read_prompt(folder)
                except SoftPromptError:
                    continue
                pytest.fail(f"not detected: {what}")
        assert equal(read_prompt(folder), a_prompt())

    def test_every_bit_of_the_manifest_matters(self, tmp_path):
        folder = save_prompt(a_prompt(), tmp_path / "p")
        content = (folder / "manifest.json").read_bytes()
        for place in range(len(content)):
            for bit in range(8):
                flipped = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
                (folder / "manifest.json").write_bytes(flipped)
                with pytest.raises(SoftPromptError):
                    read_prompt(folder)

    def test_every_damage_to_a_checkpoint_is_detected_and_the_previous_one_is_used(self, tmp_path, caplog):
        tensors = {"v": torch.randn(3, 5)}
        save_checkpoint(tmp_path, 100, tensors, {"loss": 0.5})
        newest, rng = save_checkpoint(tmp_path, 200, tensors, {"loss": 0.25}), random.Random(1)
        for number in range(2000 if ALL else 400):
            for what in self.damaged(rng, newest):
                found = latest_checkpoint(tmp_path)
                assert found is not None
                assert found.step == 100, f"not detected: {what}"
            assert len(caplog.records) == number + 1
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert (found.step, found.state) == (200, {"loss": 0.25})

    @pytest.mark.parametrize("name", ["prompt.safetensors", "prompt.json", "manifest.json"])
    def test_a_missing_file_is_named(self, tmp_path, name):
        folder = save_prompt(a_prompt(), tmp_path / "p")
        (folder / name).unlink()
        with pytest.raises(DamagedFile, match=f"{name}' is missing"):
            read_prompt(folder)


class TestCheckpoints:
    def test_tensors_keep_dtype_and_bits_and_floats_are_exact(self, tmp_path):
        generator = torch.Generator().manual_seed(0)
        parameter = torch.randn(4, 6, generator=generator)
        tensors = {
            "f32": parameter,
            "row of f32": parameter[1],
            "turned": parameter.T,
            "f64": torch.randn(3, generator=generator, dtype=torch.float64),
            "bf16": torch.randn(3, generator=generator).bfloat16(),
            "nan": torch.tensor([float("nan"), -float("nan"), float("inf"), -0.0]),
            "step": torch.tensor(17.0),
            "int": torch.tensor([2**62, -1]),
            "rng": generator.get_state(),
            "none": torch.zeros(0, 6),
        }
        rng = random.Random(0)
        floats = [rng.uniform(-1, 1) * 10 ** rng.randint(-300, 300) for _ in range(2000)] + [
            5e-324,
            -0.0,
            0.1 + 0.2,
        ]
        state = {"floats": floats, "best": float("-inf"), "big": 2**200, "text": "\u00e9\u4e2d", "none": None}
        save_checkpoint(tmp_path, 7, tensors, state)
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.step == 7
        assert found.state == state
        assert [x.hex() for x in found.state["floats"]] == [x.hex() for x in floats]
        assert found.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            mine = found.tensors[name]
            assert (mine.dtype, mine.shape) == (tensor.dtype, tensor.shape)
            assert mine.numpy(force=True).tobytes() == tensor.numpy().tobytes() if name != "bf16" else True
            assert torch.equal(mine.nan_to_num(), tensor.nan_to_num()) if name == "bf16" else True

    def test_a_loaded_tensor_does_not_change_with_its_file(self, tmp_path):
        path = save_checkpoint(tmp_path, 1, {"v": torch.ones(1000)}, {})
        found = latest_checkpoint(tmp_path)
        assert found is not None
        with (path / "state.safetensors").open("r+b") as file:
            file.seek(200)
            file.write(b"\xff" * 1000)
        assert torch.equal(found.tensors["v"], torch.ones(1000))

    def test_the_newest_two_are_kept(self, tmp_path):
        for step in (1, 50, 900, 1_000_000):
            save_checkpoint(tmp_path, step, {}, {"step": step})
        assert sorted(os.listdir(tmp_path)) == ["step-000900", "step-1000000"]
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.step == 1_000_000

    def test_a_damaged_future_goes_when_the_run_has_gone_on(self, tmp_path):
        for step in (100, 200):
            save_checkpoint(tmp_path, step, {}, {})
        (tmp_path / "step-000200" / "manifest.json").unlink()
        save_checkpoint(tmp_path, 150, {}, {})
        assert sorted(os.listdir(tmp_path)) == ["step-000100", "step-000150"]

    def test_a_damaged_step_is_written_anew(self, tmp_path):
        save_checkpoint(tmp_path, 100, {}, {})
        (tmp_path / "step-000100" / "manifest.json").unlink()
        save_checkpoint(tmp_path, 100, {}, {"again": True})
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.state == {"again": True}

    def test_the_damaged_file_is_named_in_the_warning(self, tmp_path, caplog):
        for step in (100, 200):
            save_checkpoint(tmp_path, step, {}, {})
        os.truncate(tmp_path / "step-000200" / "state.json", 1)
        with caplog.at_level(logging.WARNING, "softprompt"):
            latest_checkpoint(tmp_path)
        assert "checkpoint of step 200 is not used" in caplog.text
        assert "state.json' has 1 bytes" in caplog.text

    def test_only_damaged_checkpoints_are_an_error_and_not_a_fresh_start(self, tmp_path):
        save_checkpoint(tmp_path, 100, {}, {})
        os.truncate(tmp_path / "step-000100" / "state.json", 1)
        with pytest.raises(DamagedFile, match="every checkpoint"):
            latest_checkpoint(tmp_path)

    def test_no_checkpoint_is_none(self, tmp_path):
        assert latest_checkpoint(tmp_path / "nowhere") is None
        assert latest_checkpoint(tmp_path) is None

    def test_what_a_killed_writer_left_is_ignored_and_then_removed_but_not_what_one_may_still_write(self, tmp_path):
        save_checkpoint(tmp_path, 100, {}, {})
        leftover, alive = tmp_path / ".step-000200.0123abcd.tmp", tmp_path / ".step-000200.4567abcd.tmp"
        for folder in (leftover, alive):
            folder.mkdir()
            (folder / "state.json").write_text("{")
        for path in (leftover, leftover / "state.json"):
            os.utime(path, (time.time() - 700, time.time() - 700))
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.step == 100
        save_checkpoint(tmp_path, 300, {}, {})
        assert sorted(os.listdir(tmp_path)) == [alive.name, "step-000100", "step-000300"]

    def test_a_step_being_replaced_when_killed_is_found(self, tmp_path):
        save_checkpoint(tmp_path, 100, {}, {"kept": 1})
        os.rename(tmp_path / "step-000100", tmp_path / ".step-000100.old")
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert (found.step, found.state) == (100, {"kept": 1})


class TestAtomicity:
    def test_the_manifest_is_written_last_and_everything_is_flushed_before_the_rename(self, tmp_path, monkeypatch):
        events, paths = [], {}
        fsync, rename = os.fsync, os.rename

        def noted_fsync(descriptor):
            events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
            fsync(descriptor)

        def noted_rename(source, target):
            paths["temporary"] = Path(source)
            events.append("rename")
            rename(source, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "rename", noted_rename)
        write_folder(tmp_path / "t", {"a": b"1", "b": b"2"}, what="a test")
        temporary = paths["temporary"]
        assert temporary.parent == tmp_path
        assert events == [
            "fsync a",
            "fsync b",
            "fsync manifest.json",
            f"fsync {temporary.name}",
            "rename",
            f"fsync {tmp_path.name}",
        ]

    @pytest.mark.parametrize("call", ["os.fsync", "os.rename", "os.open", "Path.mkdir", "Path.open"])
    def test_a_disk_that_fails_at_any_call_loses_nothing(self, tmp_path, monkeypatch, call):
        folder = save_prompt(a_prompt(seed=1), tmp_path / "p")
        owner = Path if call.startswith("Path") else os
        name, number, failed = call.split(".")[1], 0, 0
        original = getattr(owner, name)
        for number in range(100):
            calls = iter(range(1000))

            def failing(*args, _number=number, _calls=calls, **kwargs):
                # Removing what was replaced (dir_fd) comes after success; the next write mends a failure.
                if "dir_fd" not in kwargs and next(_calls) == _number:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return original(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, failing)
                try:
                    save_prompt(a_prompt(seed=2), folder, replace=True)
                    break
                except StorageFailure as error:
                    failed += "No space left on device; what was stored before is intact" in str(error)
            assert equal(read_prompt(folder), a_prompt(seed=1))
            assert os.listdir(tmp_path) == ["p"]
        assert failed == number >= 1
        assert equal(read_prompt(folder), a_prompt(seed=2))
        assert os.listdir(tmp_path) == ["p"]

    def test_a_full_disk_at_any_byte_keeps_the_last_checkpoint(self, tmp_path):
        script = """
import os, resource, sys
from pathlib import Path
import torch
from softprompt.errors import StorageFailure
from softprompt.store import latest_checkpoint, save_checkpoint

folder = Path(sys.argv[1])
tensors = {"v": torch.arange(200.0)}
save_checkpoint(folder, 1, tensors, {"good": True})
largest = max(p.stat().st_size for p in (folder / "step-000001").iterdir())
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in range(0, largest, 7):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        save_checkpoint(folder, 2, tensors, {"good": False})
        sys.exit(f"{limit} bytes were enough")
    except StorageFailure as error:
        assert "the checkpoint of step 2" in str(error) and "\\n" not in str(error), error
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert os.listdir(folder) == ["step-000001"], os.listdir(folder)
    assert latest_checkpoint(folder).state == {"good": True}
"""
        done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_ctrl_c_while_writing_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def interrupted(descriptor):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_prompt(a_prompt(), tmp_path / "p")
        assert os.listdir(tmp_path) == []

    def test_a_place_below_a_file_is_a_storage_failure(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(StorageFailure, match=r"Not a directory|File exists"):
            save_prompt(a_prompt(), tmp_path / "file" / "p")

    def test_another_writers_folder_is_not_pushed_aside(self, tmp_path, monkeypatch):
        mkdir = Path.mkdir

        def overtaken(path, *args, **kwargs):
            mkdir(path, *args, **kwargs)
            if path.suffix == ".tmp":
                mkdir(tmp_path / "t")
                (tmp_path / "t" / "theirs").write_text("theirs")

        monkeypatch.setattr(Path, "mkdir", overtaken)
        with pytest.raises(StorageFailure):
            write_folder(tmp_path / "t", {"a": b"ours"}, what="a test")
        assert os.listdir(tmp_path) == ["t"]
        assert os.listdir(tmp_path / "t") == ["theirs"]

    def test_files_beside_the_listed_ones_are_ignored(self, tmp_path):
        folder = write_folder(tmp_path / "t", {"a": b"1"}, what="a test")
        (folder / "README.md").write_text("mine")
        assert read_folder(folder) == {"a": folder / "a"}

    def test_a_name_with_pattern_characters_is_a_name(self, tmp_path):
        bystander = tmp_path / ".ab.0123abcd.tmp"
        bystander.mkdir()
        write_folder(tmp_path / "[a]b", {"a": b"1"}, what="a test")
        assert bystander.is_dir()

    def test_a_link_that_leads_nowhere_is_not_replaced(self, tmp_path):
        (tmp_path / "report.json").symlink_to("nowhere")
        with pytest.raises(BadInput, match="exists already"):
            write_file(tmp_path / "report.json", b"new", what="the report")
        assert (tmp_path / "report.json").is_symlink()

    def test_a_place_where_nothing_can_be_removed_either_says_what_was_not_written(self, tmp_path, monkeypatch):
        def read_only(*arguments, **keywords):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(Path, "open", read_only)
        monkeypatch.setattr(Path, "unlink", read_only)
        with pytest.raises(StorageFailure, match=r"could not write the record to .*: Read-only file system; what was"):
            write_file(tmp_path / "run.json", b"new", what="the record")

    def test_a_file_is_written_whole_or_not_at_all(self, tmp_path, monkeypatch):
        path = write_file(tmp_path / "run.json", b"old", what="the record")
        with pytest.raises(BadInput, match="exists already"):
            write_file(path, b"new", what="the record")

        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageFailure, match="could not write the record"):
                write_file(path, b"new", what="the record", replace=True)
        assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["run.json"])
        with path.open("rb") as before:
            assert write_file(path, b"new", what="the record", replace=True).read_bytes() == b"new"
            assert before.read() == b"old"  # another file has taken the name; this one was not written into
