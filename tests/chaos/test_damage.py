"""A short form of the 2,000 flips and cuts of `make chaos`, and what else damage must not do."""

import json
import re

import damage
import made
import pytest
import torch
from small_runs import contents
from softprompt.cli import main
from softprompt.documents import json_bytes, read_sealed, sealed_bytes
from softprompt.errors import BadInput, DamagedFile
from softprompt.export.compiled import CompiledPrompt
from softprompt.interop.peft import export_peft
from softprompt.prompts.prompt import SoftPrompt
from softprompt.training._damage import damaged_documents
from softprompt.tuning._kept import stored_values
from softprompt.tuning._trials import read_waves


@pytest.fixture(scope="module")
def prompt(whole):
    return SoftPrompt.load(next(whole.glob("ept-star*/prompt")))


def test_every_flip_and_cut_in_a_run_is_named_or_falls_back(whole):
    before = contents(whole)
    found, bad = damage.campaign({whole: damage.read_run}, count=90, seed=0)
    assert bad == []
    assert found["named"] > 60
    assert found["fallback"] > 3
    assert contents(whole) == before


def test_every_flip_and_cut_in_a_prompt_and_in_an_export_is_named(prompt, tmp_path):
    exported, stored = export_peft(prompt, tmp_path / "e"), prompt.save(tmp_path / "p")
    found, bad = damage.campaign({stored: damage.read_any, exported: damage.read_files}, count=60, seed=1)
    assert (bad, set(found)) == ([], {"named"})


def test_every_flip_and_cut_in_a_search_a_store_a_bank_a_compiled_prompt_and_a_journal_is_named(prompt, tmp_path):
    (tmp_path / "p").mkdir()
    places = made.places(prompt, tmp_path / "p")
    found, bad = damage.campaign(places, count=160, seed=2, stays=bytes.startswith)
    assert (bad, set(found)) == ([], {"named", "torn end, as after a kill"})
    assert found["named"] > 140


def test_a_cut_that_takes_format_and_checksum_away_is_named_in_every_kind_of_document(whole, prompt, tmp_path):
    """The rest is whole JSON, and no file of an earlier version."""
    (tmp_path / "p").mkdir()
    outcomes = {}
    for folder, read in {**made.places(prompt, tmp_path / "p"), whole: damage.read_run}.items():
        for path in damage.files_of(folder):
            content = path.read_bytes()
            if b' "format": ' not in content or b'\n "sha256": ' not in content or path.name == "manifest.json":
                continue
            end = content.index(b"\n", content.rindex(b'\n "sha256": ') + 1) + 1
            # No comma is left before the last bracket.
            cut = content[: content.index(b' "format": ')] + content[end:]
            path.write_bytes(re.sub(rb",\n}\n\Z", b"\n}\n", cut))
            json.loads(path.read_bytes())
            outcomes[str(path.relative_to(folder))] = damage.outcome(read, folder, path)
            path.write_bytes(content)
    assert len(outcomes) > 10
    assert {name: what for name, what in outcomes.items() if what != "named"} == {}


@pytest.mark.parametrize(
    ("name", "between"), [("frozen.json", {"places": [0]}), ("comparison.json", {"prompts": [], "rows": 1})]
)
def test_so_is_such_a_cut_in_what_a_run_is_compared_with(name, between, tmp_path):
    content = sealed_bytes({"baselines": [], "format": 2, **between, "texts": []})
    end = content.index(b"\n", content.index(b'"sha256"')) + 1
    (tmp_path / name).write_bytes(content[: content.index(b' "format"')] + content[end:])
    assert [name in line for line in damaged_documents(tmp_path)] == [True]


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


def test_parts_of_a_search_of_an_earlier_version_are_read_without_a_checksum(tmp_path):
    wave = made.search(tmp_path / "search") / "waves" / "000"
    before = read_waves(tmp_path / "search")
    for path in wave.glob("*.json"):
        path.write_bytes(json_bytes(stored_values(path)))
    assert read_waves(tmp_path / "search") == before
    assert stored_values(wave / "asked.json") == [dict(before[0].trials[0].params)]
    wave.joinpath("told.json").write_text('{"trials": 3, "seconds": 1.0}')
    with pytest.raises(BadInput, match=r"told\.json'?: 'trials' of the wave"):
        read_waves(tmp_path / "search")


def test_a_compiled_prompt_of_an_earlier_version_is_read_without_a_checksum(tmp_path):
    folder = made.compiled(tmp_path / "compiled")
    about = read_sealed(folder / "cache.json")
    (folder / "cache.json").write_bytes(json_bytes({k: v for k, v in about.items() if k not in ("format", "files")}))
    assert CompiledPrompt.load(folder).length == 3
    assert main(["doctor", str(folder)]) == 0


def test_a_changed_cache_of_a_compiled_prompt_is_refused_and_a_changed_readme_only_named(tmp_path):
    folder = made.compiled(tmp_path / "compiled")
    (folder / "README.md").write_text("Ours.")
    assert CompiledPrompt.load(folder).length == 3
    assert main(["doctor", str(folder)]) == 1
    cache = folder / "cache.safetensors"
    cache.write_bytes(cache.read_bytes()[:-1] + b"\1")
    with pytest.raises(DamagedFile, match=r"cache\.safetensors' is not what was written"):
        CompiledPrompt.load(folder)
