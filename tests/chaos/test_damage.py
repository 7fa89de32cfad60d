"""A short form of the 2,000 flips and cuts of `make chaos`, and what else damage must not do."""

import damage
import pytest
import torch
from small_runs import contents
from softprompt.cli import main
from softprompt.interop.peft import export_peft
from softprompt.prompts.prompt import SoftPrompt


@pytest.fixture(scope="module")
def prompt(whole):
    return SoftPrompt.load(next(whole.glob("ept-star*/prompt")))


def test_every_flip_and_cut_in_a_run_is_named_or_falls_back(whole):
    before = contents(whole)
    found, bad = damage.campaign({"run": whole}, count=90, seed=0)
    assert bad == []
    assert found["named"] > 60
    assert found["fallback"] > 3
    assert contents(whole) == before


def test_every_flip_and_cut_in_a_prompt_and_in_an_export_is_named(prompt, tmp_path):
    places = {"folder-prompt": prompt.save(tmp_path / "p"), "folder-peft": export_peft(prompt, tmp_path / "e")}
    found, bad = damage.campaign(places, count=60, seed=1)
    assert (bad, set(found)) == ([], {"named"})


def test_the_doctor_names_the_damaged_file_and_ends_with_1(whole, tmp_path, capsys):
    assert main(["doctor", str(whole)]) == 0
    assert f"{whole}: every file is as it was written" in capsys.readouterr().out
    path = next(whole.glob("*/restarts/chosen.json"))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"chosen": ', b'"chosen":  '))
    assert main(["doctor", str(whole), "--json"]) == 1
    assert "chosen.json' is not as it was written" in capsys.readouterr().out
    path.write_bytes(content)
    assert main(["doctor", str(tmp_path / "nothing")]) == 2


def test_a_prompt_says_what_was_imported(tmp_path):
    import hashlib

    import numpy as np
    from softprompt.interop.numpy import import_numpy

    np.save(tmp_path / "v.npy", np.ones((2, 4), np.float32))
    found = import_numpy(tmp_path / "v.npy", backbone_name="m")
    digest = hashlib.sha256((tmp_path / "v.npy").read_bytes()).hexdigest()
    assert found.provenance.training == {"imported_from": "v.npy", "imported_sha256": digest}
    assert torch.equal(found.vectors, torch.ones(2, 4))
