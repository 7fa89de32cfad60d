"""Every flipped bit and every cut is detected."""

import random
from pathlib import Path

import pytest
import torch
from softprompt.errors import DamagedFile, SoftPromptError
from softprompt.store import latest_checkpoint, read_prompt, save_checkpoint, save_prompt

from kit import equal
from store_kit import a_prompt
from tiny import ALL


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
