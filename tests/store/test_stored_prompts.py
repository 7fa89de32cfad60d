"""Prompts are stored and found, and come back bit for bit."""

import os
from pathlib import Path

import pytest
import torch
from softprompt.errors import BadInput
from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt
from softprompt.store import find_prompt, read_prompt, save_prompt

from kit import equal
from store_kit import a_prompt


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
