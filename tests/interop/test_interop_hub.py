"""Prompts pushed to the hub and loaded by their names."""

import dataclasses
from collections import namedtuple
from pathlib import Path

import pytest
from softprompt.errors import BadInput, DamagedFile
from softprompt.inference.calibration import Calibration
from softprompt.inference.scoring import Scoring
from softprompt.interop import hub
from softprompt.interop.card import CHOICE_CAVEAT
from softprompt.interop.recipes import readme
from softprompt.prompts.prompt import SoftPrompt
from softprompt.store import save_prompt

from interop_kit import a_prompt
from kit import equal


class TestHub:
    """The hub is a folder here: huggingface_hub's functions are replaced, nothing is sent."""

    @pytest.fixture
    def repositories(self, tmp_path, monkeypatch):
        import huggingface_hub

        store, calls = tmp_path / "hub", []

        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            calls.append((repo_id, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            for file in Path(folder_path).iterdir():
                blob = store / "blobs" / f"{repo_id.replace('/', '--')}-{file.name}"
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(file.read_bytes())
                link = store / repo_id / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)  # as in the real cache
            return namedtuple("Commit", "commit_url")(f"https://huggingface.co/{repo_id}/commit/1")

        def snapshot_download(repo_id, *, allow_patterns):
            assert sorted(allow_patterns) == ["manifest.json", "prompt.json", "prompt.safetensors"]
            if not (store / repo_id).is_dir():
                raise FileNotFoundError(f"404 Client Error.\n\nRepository Not Found for {repo_id}")
            return str(store / repo_id)

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        monkeypatch.chdir(tmp_path)
        return namedtuple("Repositories", "store calls")(store, calls)

    def test_a_pushed_prompt_loads_by_its_name(self, repositories):
        prompt = a_prompt("encoder", "linear-head")
        assert prompt.push_to_hub("user/name", private=True) == "https://huggingface.co/user/name/commit/1"
        assert repositories.calls == [("user/name", True, True)]
        assert equal(SoftPrompt.load("user/name"), prompt)

    def test_the_model_card_names_backbone_task_and_scores(self, repositories):
        hub.push_prompt(a_prompt(), "user/name", private=False)
        card = (repositories.store / "user" / "name" / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: softprompt\nbase_model: a/model\nlicense: other\n")
        assert "A soft prompt of 3 vectors (48 numbers stored) for the frozen `a/model`." in card
        for said in ("- Task: films", "- Method: ept-star", "- Seeds: initialization 3", "- validation accuracy: 0.75"):
            assert said in card
        assert 'SoftPrompt.load("user/name")' in card

    def test_the_model_card_says_how_labels_are_chosen_and_what_that_does_not_teach(self):
        prompt = a_prompt("decoder")
        scoring = Scoring(end=False, calibration=Calibration(0.5, (0.25, -0.25), ("bad", "good")))
        provenance = dataclasses.replace(prompt.provenance, scoring=scoring.to_json())
        card = hub.model_card(dataclasses.replace(prompt, provenance=provenance), "user/name")
        for said in (
            "Inputs are read up to 64 tokens",
            "the sum of the log-probabilities of its tokens, without an end of sequence",
            CHOICE_CAVEAT,
            "probabilities = (scores / 0.5 + torch.tensor([0.25, -0.25])).softmax(-1)",
        ):
            assert said in card

    @pytest.mark.parametrize("name", ["/home/me/t5", "t5", "lab-t5", "a: b/c"])
    def test_no_card_names_a_base_model_that_is_none_of_the_hubs(self, name):
        for text in (hub.model_card(a_prompt(name=name), "user/name"), readme(a_prompt(name=name))):
            assert "base_model" not in text

    def test_names_of_a_stranger_stay_names_in_every_readme(self, repositories, tmp_path):
        evil = "x\n\n## Load\n\n```python\nimport os\n```\n<b>[here](http://evil)"
        prompt = a_prompt(name=evil)
        provenance = dataclasses.replace(
            prompt.provenance,
            method=evil,
            task={"name": evil, "labels": [evil]},
            seeds={evil: 1},
            metrics={evil: {evil: 0.5}},
        )
        prompt = dataclasses.replace(prompt, provenance=provenance)
        for text in (hub.model_card(prompt, "user/name"), readme(prompt)):
            assert text.count("\n## Load") <= 1
            assert text.count("\n```python") == 1
            assert text.count("```") == 2 + text.count(repr(evil)) * 2
            assert "<b>" not in text.replace(repr(evil), "")
            assert "](http" not in text.replace(repr(evil), "")

    def test_a_folder_that_is_here_comes_before_the_hub(self, repositories, tmp_path):
        hub.push_prompt(a_prompt(seed=1), "user/name", private=False)
        save_prompt(a_prompt(seed=2), tmp_path / "user" / "name")
        assert equal(hub.load_prompt("user/name"), a_prompt(seed=2))

    def test_a_run_with_one_prompt_loads(self, tmp_path):
        save_prompt(a_prompt(), tmp_path / "run" / "s0" / "prompt")
        (tmp_path / "run" / "run.json").write_text("{}")
        assert equal(hub.load_prompt(tmp_path / "run"), a_prompt())

    def test_a_name_that_is_nowhere_gives_one_line(self, repositories):
        with pytest.raises(BadInput, match="there is no 'user/other' here, and not on the hub either: 404") as refused:
            hub.load_prompt("user/other")
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        "source", ["nowhere", "a/b/c", "../x", "/tmp/nowhere/x", "user/", "https://x/y", Path("a/b")]
    )
    def test_what_is_neither_a_path_nor_a_name_is_not_asked_of_the_hub(self, repositories, source):
        with pytest.raises(BadInput, match="nor user/name on the hub"):
            hub.load_prompt(source)

    def test_a_repository_of_something_else_says_so(self, repositories):
        (repositories.store / "user" / "model").mkdir(parents=True)
        with pytest.raises(BadInput, match="holds no softprompt files"):
            hub.load_prompt("user/model")

    def test_a_damaged_download_is_refused(self, repositories):
        hub.push_prompt(a_prompt(), "user/name", private=False)
        blob = repositories.store / "blobs" / "user--name-prompt.safetensors"
        blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
        with pytest.raises(DamagedFile, match="not what was written"):
            hub.load_prompt("user/name")

    def test_a_push_that_the_hub_refuses_gives_one_line(self, repositories, monkeypatch):
        import huggingface_hub

        def refuse(self, *args, **kwargs):
            raise OSError("401 Unauthorized\n\nInvalid token")

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
        with pytest.raises(BadInput, match="could not push to 'user/name': 401 Unauthorized; log in"):
            hub.push_prompt(a_prompt(), "user/name", private=False)

    def test_a_repository_without_a_user_is_refused(self):
        with pytest.raises(BadInput, match="not of the form user/name"):
            hub.push_prompt(a_prompt(), "name", private=False)
