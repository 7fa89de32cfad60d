"""Replicas of the server on Ray Serve: a real cluster of this machine with two of them, one of which dies."""

import concurrent.futures
import contextlib
import os
import socket
import sys
import time
from collections import Counter

import httpx
import psutil
import pytest
from softprompt import cli
from softprompt.errors import BadInput
from softprompt.serving import Limits
from softprompt.serving.http import ServerSettings
from softprompt.serving.http.replicas import Replica, replicated
from softprompt.settings import ModelSpec
from softprompt.store import save_prompt

from serving_kit import agrees_with_json, bank_of, singles, some_inputs, some_prompts

# A cluster takes half a minute to start, and half a gigabyte.
WANTED = os.environ.get("SOFTPROMPT_RAY_TESTS") == "1"


def test_without_ray_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    replica = Replica(
        model=ModelSpec("lab-gpt"), prompts=tmp_path, settings=ServerSettings(model_name="m"), limits=Limits()
    )
    with (
        pytest.raises(BadInput, match=r"needs Ray Serve; pip install 'softprompt\[serve,ray\]'"),
        replicated(replica, 2),
    ):
        pass


def test_changes_that_would_reach_one_replica_alone_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", "a-token-for-changes")
    arguments = ["serve", "lab-gpt", "--prompts", str(tmp_path), "--replicas", "2"]
    assert cli.main(arguments) == 2
    assert "put prompts into the folder, which all replicas watch" in capsys.readouterr().err
    assert cli.main([*arguments, "--port", "0"]) == 2
    assert "give a --port with --replicas" in capsys.readouterr().err


# Ray's own modules warn of what they use.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not WANTED, reason="needs a Ray cluster of half a gigabyte (SOFTPROMPT_RAY_TESTS=1)")
def test_two_replicas_answer_as_one_and_go_on_when_one_dies(tmp_path, tiny_gpt, save_tiny):
    from softprompt import load_backbone

    folder = save_tiny(tmp_path / "model", *tiny_gpt("llama"))
    backbone = load_backbone(str(folder))
    prompts = some_prompts(backbone, 6)
    for name, prompt in prompts.items():
        save_prompt(prompt, tmp_path / "prompts" / name)
    bank = bank_of(backbone, prompts)
    requests = [request for request in some_inputs(bank, 60) if request[0].asked.reading is not None]
    expected = singles(requests, backbone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    replica = Replica(
        model=ModelSpec(str(folder)),
        prompts=tmp_path / "prompts",
        settings=ServerSettings(model_name="m", hosts=("127.0.0.1",)),
        limits=Limits(),
        watch=0.2,
    )
    with replicated(replica, 2, port=port) as address, httpx.Client(base_url=address, timeout=60) as client:

        def ask(number: int) -> None:
            served, given = requests[number]
            reply = client.post("/classify", json={"model": f"m:{served.name}", "inputs": given})
            assert reply.status_code == 200, reply.text
            assert agrees_with_json(reply.json()["answers"][0], expected[number], served)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(len(requests))))
        assert client.post("/classify", json={"model": "m:p00", "inputs": "good"}).status_code == 404
        workers = replicas_of()
        assert len(workers) == 2
        # Prompts that come into the folder reach both.
        save_prompt(prompts["p0"], tmp_path / "prompts" / "late")
        time.sleep(1)
        assert Counter(client.get("/prompts/late").status_code for _ in range(20)) == {200: 20}
        kill(workers[0])
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(len(requests))))
        until = time.monotonic() + 60
        while len(replicas_of()) < 2 and time.monotonic() < until:
            time.sleep(0.5)
        assert len(replicas_of()) == 2


def replicas_of() -> list[int]:
    """The processes of the replicas that run; a replica that ends just now is none."""
    running = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(child.cmdline()).startswith("ray::ServeReplica"):
                running.append(child.pid)
    return running


def kill(process: int) -> None:
    """End a process at once."""
    os.kill(process, 9)
