"""The server at a port of this machine: it is told to end, it is fuzzed, it is started from the command line."""

import contextlib
import dataclasses
import signal
import socket
import sys
import threading
import time
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from softprompt import cli
from softprompt.backbones import from_model
from softprompt.cli._serve import secrets
from softprompt.errors import BadInput
from softprompt.serving import Engine, PromptFolder, as_trained
from softprompt.serving.http import ServerSettings, Service, listen
from softprompt.serving.http.settings import hosts_for, is_loopback
from softprompt.settings import ModelSpec
from softprompt.store import save_prompt

from serving_kit import at_an_address, bank_of, some_prompts

TOKEN = "a-token-for-changes"


@pytest.fixture(scope="module")
def backbone(tiny_bert):
    return from_model(*tiny_bert("bert"), name="tiny-bert", answers="label-words")


@pytest.fixture(scope="module")
def prompts(backbone):
    return some_prompts(backbone, 3)


def service_of(bank: Any, **options: Any) -> Service:
    return Service(bank, Engine(bank.admission.backbone), ServerSettings(model_name="tiny", **options))


def test_after_a_signal_what_was_taken_is_answered_and_nothing_more_is_taken(backbone, prompts):
    service, body = service_of(bank_of(backbone, prompts)), {"model": "tiny:p0", "inputs": "good"}
    run, begun = service.engine.run, threading.Event()

    def slow(works):
        begun.set()
        time.sleep(0.3)
        return run(works)

    service.engine.run = slow  # pyright: ignore[reportAttributeAccessIssue]
    with at_an_address(service) as (address, server), httpx.Client(base_url=address) as client:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(httpx.post(address + "classify", json=body)))
        assert client.get("/ready").status_code == 200
        asking.start()
        begun.wait()
        server.handle_exit(signal.SIGTERM, None)
        # A connection that was open before is told to go elsewhere.
        late = client.post("/classify", json=body)
        asking.join()
    assert (late.status_code, late.json()["error"]["code"], "Retry-After" in late.headers) == (503, "draining", True)
    assert [answer.status_code for answer in answers] == [200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_a_client_that_leaves_frees_what_it_asked(backbone, prompts):
    service, body = service_of(bank_of(backbone, prompts)), {"model": "tiny:p0", "inputs": ["good"] * 200}
    run, passes = service.engine.run, []

    def slow(works):
        passes.append(len(works))
        time.sleep(0.1)
        return run(works)

    service.engine.run = slow  # pyright: ignore[reportAttributeAccessIssue]
    with at_an_address(service) as (address, _):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address + "classify", json=body, timeout=0.05)
        until = time.monotonic() + 5
        while service.batcher.waiting and time.monotonic() < until:
            time.sleep(0.01)
        assert httpx.post(address + "classify", json={**body, "inputs": "good"}).status_code == 200
    assert sum(passes) < 200


def test_connections_without_a_whole_header_are_closed_and_others_go_on(backbone, prompts):
    service = service_of(bank_of(backbone, prompts), body_timeout=0.2)
    with at_an_address(service) as (address, server), contextlib.ExitStack() as stack:
        port = int(address.rstrip("/").rpartition(":")[2])
        idle, slow, later = (stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(3))
        slow.sendall(b"GET /health HT")
        later.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        # The head and the body may come in two pieces.
        while not answer.endswith(b"}"):
            piece = later.recv(4096)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200")
        later.sendall(b"GET /hea")
        # A connection that ends has nothing more to read.
        assert [connection.recv(1) for connection in (idle, slow, later)] == [b"", b"", b""]
        assert httpx.get(address + "ready").status_code == 200
        until = time.monotonic() + 5
        while server.server_state.connections and time.monotonic() < until:
            time.sleep(0.01)
        assert not server.server_state.connections


def test_prompts_that_are_put_into_the_folder_are_served_soon(backbone, prompts, tmp_path):
    bank = bank_of(backbone, {})
    folder = PromptFolder(tmp_path, bank)
    with at_an_address(service_of(bank), again=folder.read, every=0.02) as (address, _):
        save_prompt(prompts["p0"], tmp_path / "new")
        until = time.monotonic() + 5
        while not bank.prompts and time.monotonic() < until:
            time.sleep(0.01)
        assert httpx.get(address + "prompts/new").json()["task"] == "sentiment"


def test_why_a_folder_cannot_be_read_again_is_logged_when_it_changes(backbone, prompts, caplog):
    reasons = iter([BadInput("no folder"), BadInput("no folder"), OSError("secret"), None, BadInput("no folder")])
    looks = threading.Semaphore(0)

    def again():
        looks.release()
        if (error := next(reasons, None)) is not None:
            raise error

    with at_an_address(service_of(bank_of(backbone, prompts)), again=again, every=0.01):
        assert all(looks.acquire(timeout=10) for _ in range(6))
    told = [record.message for record in caplog.records if "read again" in record.message]
    assert [line.removeprefix("the prompts cannot be read again now: ") for line in told] == [
        "no folder", "OSError", "no folder"
    ]  # fmt: skip


def test_nothing_that_fits_or_does_not_fit_the_description_is_answered_with_500(backbone, prompts):
    import schemathesis

    few = settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    labels: list[str] = []
    with at_an_address(service_of(bank_of(backbone, prompts), admin_token=TOKEN)) as (address, _):
        schema: Any = schemathesis.openapi.from_url(address + "openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            labels.append(operation.label)

            @few
            @given(case=operation.as_strategy())
            def fuzz(case):
                response = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
                assert response.status_code < 500, response.text

            fuzz()
        assert httpx.get(address + "ready").status_code == 200
    assert len(labels) >= 11


def test_the_server_has_a_bound_of_connections_and_does_not_name_itself(backbone, prompts):
    service = service_of(bank_of(backbone, prompts))
    with at_an_address(service) as (address, server):
        assert "server" not in httpx.get(address + "health").headers
        assert sys.getswitchinterval() < 0.001
        assert server.config.limit_concurrency == 2048
    assert sys.getswitchinterval() > 0.001


def test_connections_send_small_packets_at_once():
    # asyncio switches the delay off for sockets that say their protocol.
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


class TestCommandLine:
    def test_a_server_that_others_reach_needs_keys(self, tmp_path, capsys):
        save_prompt_folder = tmp_path / "prompts"
        save_prompt_folder.mkdir()
        assert cli.main(["serve", "lab-gpt", "--prompts", str(save_prompt_folder), "--host", "0.0.0.0"]) == 2
        assert "lets others in; give --api-keys FILE" in capsys.readouterr().err
        assert is_loopback("::1")
        assert not is_loopback("10.0.0.1")
        assert hosts_for("0.0.0.0") == ()
        assert {"localhost", "127.0.0.1"} <= {*hosts_for("127.0.0.1")}

    def test_what_is_wrong_is_told_before_the_model_is_loaded(self, tmp_path, capsys, prompts):
        save_prompt(prompts["p0"], tmp_path / "a")
        assert cli.main(["serve", "lab-gpt", "--prompts", str(tmp_path / "nothing"), "--port", "0"]) == 2
        assert "is no folder" in capsys.readouterr().err
        assert cli.main(["serve", "lab-gpt", "--prompts", str(tmp_path / "a"), "--port", "0"]) == 2
        assert "is itself a prompt" in capsys.readouterr().err
        with listen("127.0.0.1", 0) as taken:
            port = str(taken.getsockname()[1])
            taken.listen()
            assert cli.main(["serve", "lab-gpt", "--prompts", str(tmp_path), "--port", port]) == 2
        assert "choose another --port" in capsys.readouterr().err

    @pytest.mark.parametrize(("option", "value"), [("--drain", "inf"), ("--watch", "inf")])
    def test_seconds_without_an_end_are_refused(self, tmp_path, capsys, option, value):
        assert cli.main(["serve", "no/model", "--prompts", str(tmp_path), option, value]) == 2
        assert f"{option} must be 0 or more and finite, not {value}" in capsys.readouterr().err

    def test_keys_are_read_from_a_file_or_the_environment_and_short_ones_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KEYS", "one-key-that-is-long, another-key-that-is-long")
        assert secrets(None, "KEYS", ",") == ("one-key-that-is-long", "another-key-that-is-long")
        (tmp_path / "keys").write_text("a-third-key-that-is-long\n")
        assert secrets(tmp_path / "keys", "KEYS") == ("a-third-key-that-is-long",)
        (tmp_path / "empty").write_text("\n")
        for file in ("empty", "nothing"):
            with pytest.raises(BadInput):
                secrets(tmp_path / file, "KEYS")
        with pytest.raises(BadInput, match="16 or more"):
            ServerSettings(model_name="tiny", keys=("short",))

    def test_the_model_answers_as_the_prompts_were_trained(self, tmp_path, prompts):
        assert as_trained(ModelSpec("lab-bert"), tmp_path).answers == "auto"
        save_prompt(prompts["p0"], tmp_path / "b")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "manifest.json").write_text("{")
        assert as_trained(ModelSpec("lab-bert"), tmp_path).answers == "label-words"
        assert as_trained(ModelSpec("lab-bert", answers="linear-head"), tmp_path).answers == "linear-head"

    @pytest.mark.parametrize(
        ("names", "answers", "scale"),
        [
            ({"a": "lab-gpt-tiny", "b": "lab-bert-tiny", "c": "lab-bert"}, "linear-head", 4.0),
            ({"a": "lab-gpt-tiny", "b": "lab-bert-tiny"}, "label-words", 2.0),
            ({"a": "lab-gpt-tiny"}, "auto", 1.0),
        ],
    )
    def test_prompts_of_another_model_say_nothing_of_this_one(self, tmp_path, prompts, names, answers, scale):
        ways = {"a": ("tokens", 8.0), "b": ("label-words", 2.0), "c": ("linear-head", 4.0)}
        for place, name in names.items():
            provenance = prompts["p0"].provenance
            kind = "decoder" if "gpt" in name else "encoder"
            made_by = dataclasses.replace(provenance.backbone, name=name, kind=kind, embedding_scale=ways[place][1])
            other = dataclasses.replace(provenance, backbone=made_by, answers=ways[place][0])
            save_prompt(dataclasses.replace(prompts["p0"], provenance=other), tmp_path / place)
        spec = as_trained(ModelSpec("lab-bert"), tmp_path)
        assert (spec.answers, spec.embedding_scale) == (answers, scale)
