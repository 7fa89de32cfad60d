"""Prompts that are added, replaced and removed while the server runs, by requests or in a folder."""

import asyncio
import base64
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from softprompt.serving import PromptFolder, Refusal, places_in
from softprompt.store import save_prompt, to_document
from softprompt.store._values import tensor_bytes

from server_kit import TOKEN, served
from serving_kit import bank_of, singles, some_inputs


class TestChanges:
    HEADERS = {"Authorization": f"Bearer {TOKEN}"}  # noqa: RUF012  (never changed)

    def body(self, prompt):
        return {"document": to_document(prompt), "tensors": base64.b64encode(tensor_bytes(prompt.tensors())).decode()}

    def test_a_prompt_is_added_replaced_and_removed(self, bank, prompts, backbone):
        async def test(client, service):
            response = await client.put("/prompts/new", json=self.body(prompts["p0"]), headers=self.HEADERS)
            assert response.status_code == 201, response.text
            assert response.json()["version"] == bank.get("p0").version
            response = await client.put("/prompts/new", json=self.body(prompts["p4"]), headers=self.HEADERS)
            assert (response.status_code, response.json()["version"]) == (200, bank.get("p4").version)
            line = (await client.post("/classify", json={"model": "tiny:new", "inputs": "good"})).json()["answers"][0]
            assert line["label"] == singles([(bank.get("p4"), "good")], backbone)[0]["label"]
            assert (await client.delete("/prompts/new", headers=self.HEADERS)).json()["deleted"]
            assert (await client.delete("/prompts/new", headers=self.HEADERS)).status_code == 404

        served(bank, test, admin_token=TOKEN)

    def test_what_is_no_prompt_of_this_model_is_refused_and_changes_nothing(self, bank, prompts):
        good = self.body(prompts["p0"])
        document = good["document"]
        nan = tensor_bytes({"vectors": torch.full_like(prompts["p0"].vectors, torch.nan)})
        wide = tensor_bytes({"vectors": torch.zeros(1, 7)})
        bad = [
            {**good, "tensors": "!"}, {**good, "tensors": base64.b64encode(b"\x80\x04pickle").decode()},
            {**good, "tensors": base64.b64encode(nan).decode()}, {**good, "tensors": base64.b64encode(wide).decode()},
            {**good, "document": {}}, {**good, "document": {**document, "repeats": 10**9}},
            {**good, "document": {**document, "provenance": {**document["provenance"], "task": {"name": 3}}}},
            {**good, "document": {**document, "provenance": {**document["provenance"], "scoring": {"version": 9}}}},
        ]  # fmt: skip

        async def test(client, service):
            before = bank.get("p0").version
            for body in bad:
                response = await client.put("/prompts/p0", json=body, headers=self.HEADERS)
                assert response.status_code == 400, response.text
                assert "/tmp" not in response.text
            for name in ("..", "a b", "%2e%2e", "x" * 200, "a%2Fb"):
                response = await client.put(f"/prompts/{name}", json=good, headers=self.HEADERS)
                assert response.status_code in (400, 404, 405)
            assert bank.get("p0").version == before
            assert len(bank.prompts) == 8

        served(bank, test, admin_token=TOKEN)

    def test_without_a_token_nothing_can_be_changed(self, bank, prompts):
        async def test(client, service):
            response = await client.put("/prompts/new", json=self.body(prompts["p0"]))
            assert response.status_code == 403

        served(bank, test)

    def test_a_prompt_that_is_replaced_under_load_answers_as_the_old_or_the_new_one(self, bank, prompts, backbone):
        versions = {bank.get(name).version: bank.get(name) for name in ("p0", "p4")}
        texts = [given for prompt, given in some_inputs(bank_of(backbone, {"p0": prompts["p0"]}), 12)]
        expected = {
            version: singles([(prompt, text) for text in texts], backbone) for version, prompt in versions.items()
        }

        async def test(client, service):
            async def ask(number):
                body = {"model": "tiny:p0", "inputs": texts[number % len(texts)]}
                answer = (await client.post("/classify", json=body)).json()
                right = expected[answer["version"]][number % len(texts)]
                chances = {s["label"]: s["probability"] for s in answer["answers"][0]["scores"]}
                assert chances == pytest.approx(right["scores"], abs=1e-5)
                return answer["version"]

            async def replace():
                for number in range(4):
                    prompt = prompts["p4" if number % 2 == 0 else "p0"]
                    response = await client.put("/prompts/p0", json=self.body(prompt), headers=self.HEADERS)
                    assert response.status_code == 200

            seen = await asyncio.gather(*(ask(number) for number in range(24)), replace())
            assert set(seen[:-1]) <= set(versions)

        served(bank, test, admin_token=TOKEN)


class TestFolder:
    def test_prompts_come_go_and_change_with_their_folder(self, backbone, prompts, tmp_path):
        save_prompt(prompts["p0"], tmp_path / "a")
        save_prompt(prompts["p1"], tmp_path / "run-seed0" / "prompt")
        bank = bank_of(backbone, {})
        folder = PromptFolder(tmp_path, bank)
        assert folder.read() == []
        assert sorted(bank.prompts) == ["a", "run-seed0"]
        same = bank.get("run-seed0")
        save_prompt(prompts["p4"], tmp_path / "a", replace=True)
        save_prompt(prompts["p2"], tmp_path / "b")
        folder.read()
        assert {name: bank.get(name).version for name in ("a", "b")} == {
            "a": bank.admission.admit("a", prompts["p4"]).version,
            "b": bank.admission.admit("b", prompts["p2"]).version,
        }
        assert bank.get("run-seed0") is same
        shutil.rmtree(tmp_path / "b")
        folder.read()
        assert sorted(bank.prompts) == ["a", "run-seed0"]

    def test_whole_runs_are_served_by_their_names_and_those_of_their_members(self, prompts, tmp_path, monkeypatch):
        for run, members in (("one", ["ept-seed0"]), ("two", ["ept-seed0", "ept-seed1"]), ("none", [])):
            (tmp_path / run).mkdir()
            (tmp_path / run / "run.json").write_text("{}")
            for member in members:
                save_prompt(prompts["p0"], tmp_path / run / member / "prompt")
        (tmp_path / "two" / "link").symlink_to(tmp_path / "one" / "ept-seed0")
        places, refused = places_in(tmp_path)
        assert (list(places), refused) == (["one", "two.ept-seed0", "two.ept-seed1"], [])
        assert places["one"] == tmp_path / "one" / "ept-seed0" / "prompt"
        assert places_in(tmp_path / "two")[0] == {name: places[name] for name in list(places)[1:]}
        monkeypatch.chdir(tmp_path / "one")
        assert list(places_in(Path())[0]) == ["one"]

    def test_of_a_run_the_weights_are_refused_and_the_only_prompt_has_its_name(self, prompts, tmp_path):
        for run, member in (("lora", "lora-seed0"), ("mixed", "lora-seed0")):
            (tmp_path / run / member / "weights").mkdir(parents=True)
            (tmp_path / run / "run.json").write_text("{}")
        save_prompt(prompts["p0"], tmp_path / "mixed" / "ept-seed0" / "prompt")
        places, refused = places_in(tmp_path)
        assert list(places) == ["mixed"]
        reason = "it holds trained weights; only prompts share a model"
        assert refused == [Refusal("lora", reason), Refusal("mixed.lora-seed0", reason)]

    def test_the_second_prompt_of_a_name_is_refused(self, backbone, prompts, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "run.json").write_text("{}")
        for number, place in enumerate(("a/b/prompt", "a/c/prompt", "a.b")):
            save_prompt(prompts[f"p{number}"], tmp_path / place)
        bank = bank_of(backbone, {})
        folder = PromptFolder(tmp_path, bank)
        (refusal,) = folder.read()
        assert refusal.reason == (
            f"the prompt in '{tmp_path}/a/b/prompt' has this name, and so has '{tmp_path}/a.b'; rename one"
        )
        assert bank.get("a.b").version == bank.admission.admit("", prompts["p0"]).version
        assert folder.read() == []

    def test_damaged_prompts_are_refused_and_the_others_go_on(self, backbone, prompts, tmp_path):
        for name in ("good", "cut", "pickle", "renamed"):
            save_prompt(prompts["p0"], tmp_path / name)
        (tmp_path / "cut" / "prompt.safetensors").write_bytes(b"")
        (tmp_path / "pickle" / "prompt.safetensors").write_bytes(b"\x80\x04" + b"x" * 100)
        manifest = tmp_path / "renamed" / "manifest.json"
        manifest.write_text(manifest.read_text().replace("prompt.json", "../prompt.json"))
        (tmp_path / "link").symlink_to(tmp_path / "good")
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "prompt").symlink_to(tmp_path / "good")
        (tmp_path / "of weights" / "weights").mkdir(parents=True)
        for name, document in (("compiled", "cache.json"), ("limit", "limit.json")):
            (tmp_path / name).mkdir()
            (tmp_path / name / document).write_text("{}")
        save_prompt(prompts["p0"], tmp_path / "a name")
        (tmp_path / "notes.txt").write_text("no prompt")
        bank = bank_of(backbone, {})
        folder = PromptFolder(tmp_path, bank)
        refused = {refusal.name: refusal.reason for refusal in folder.read()}
        assert list(bank.prompts) == ["good"]
        named = {"cut", "pickle", "renamed", "link", "inner", "of weights", "a name", "compiled", "limit"}
        assert set(refused) == named
        assert (
            refused["compiled"]
            == refused["limit"]
            == "it is a compiled prompt; put the prompt that it was made from there"
        )
        assert folder.read() == []

    def test_a_prompt_that_is_damaged_while_it_is_replaced_leaves_the_one_that_was_served(
        self, backbone, prompts, tmp_path
    ):
        save_prompt(prompts["p0"], tmp_path / "a")
        bank = bank_of(backbone, {})
        folder = PromptFolder(tmp_path, bank)
        folder.read()
        before = bank.get("a")
        save_prompt(prompts["p4"], tmp_path / "a", replace=True)
        (tmp_path / "a" / "prompt.safetensors").write_bytes(b"")
        assert [refusal.name for refusal in folder.read()] == ["a"]
        assert bank.get("a") is before
        assert folder.read() == []
        shutil.rmtree(tmp_path / "a")
        folder.read()
        assert list(bank.prompts) == []

    def test_a_prompt_that_was_half_copied_is_served_when_the_other_half_is_there(self, backbone, prompts, tmp_path):
        save_prompt(prompts["p0"], tmp_path / "folder" / "a")
        bank = bank_of(backbone, {})
        folder = PromptFolder(tmp_path / "folder", bank)
        folder.read()
        copied = save_prompt(prompts["p4"], tmp_path / "copy")
        for name in ("manifest.json", "prompt.json"):
            shutil.copy2(copied / name, tmp_path / "folder" / "a" / name)
        assert [refusal.name for refusal in folder.read()] == ["a"]
        shutil.copy2(copied / "prompt.safetensors", tmp_path / "folder" / "a")
        assert folder.read() == []
        assert bank.get("a").version == bank.admission.admit("", prompts["p4"]).version

    @pytest.mark.parametrize("other", ["link", "weights", "compiled"])
    def test_a_prompt_that_became_something_else_is_served_no_longer_and_told_of(
        self, backbone, prompts, tmp_path, other, caplog
    ):
        for name in ("folder/a", "b"):
            save_prompt(prompts["p0"], tmp_path / name)
        bank = bank_of(backbone, {})
        folder = PromptFolder(tmp_path / "folder", bank)
        folder.read()
        place = tmp_path / "folder" / "a"
        shutil.rmtree(place)
        if other == "link":
            place.symlink_to(tmp_path / "b")
        elif other == "weights":
            (place / "weights").mkdir(parents=True)
        else:
            place.mkdir()
            (place / "cache.json").touch()
        assert [refusal.name for refusal in folder.read()] == ["a"]
        assert list(bank.prompts) == []
        assert caplog.text.count("prompt 'a' is not served") == 1
        assert folder.read() == []

    def test_what_the_model_refuses_is_told_once_until_it_changes(self, backbone, prompts, tmp_path, caplog):
        other = dataclasses.replace(prompts["p0"], vectors=torch.zeros(2, 17))
        identity = dataclasses.replace(other.provenance.backbone, embedding_size=17)
        other = dataclasses.replace(other, provenance=dataclasses.replace(other.provenance, backbone=identity))
        save_prompt(other, tmp_path / "a")
        folder = PromptFolder(tmp_path, bank_of(backbone, {}))
        assert len(folder.read()) == 1
        assert folder.read() == folder.read() == []
        save_prompt(prompts["p0"], tmp_path / "a", replace=True)
        assert folder.read() == []
        caplog.clear()
        save_prompt(other, tmp_path / "a", replace=True)
        assert len(folder.read()) == 1
        assert list(folder.bank.prompts) == ["a"]
        (told,) = caplog.messages
        assert told.startswith("the new version of prompt 'a' is refused, and the earlier one is still served: ")
