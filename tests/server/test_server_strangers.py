"""What the server does with clients that err, wait, leave or mean harm."""

import asyncio
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from softprompt.serving import Limits
from softprompt.serving.faults import Overloaded
from softprompt.serving.http import build_app
from softprompt.serving.http.problems import ClientLeft

from server_kit import TOKEN, served

KEY = "a-key-for-everybody"


class TestStrangers:
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"{", 400), (b"[]", 400), (b'{"model": "tiny:p0"}', 400), (b"\xff\xfe", 400), (b"[" * 3000, 400),
            (b'{"model": "tiny:p0", "inputs": "\\ud800 good"}', 400),
            (b'{"model": "tiny:p0", "inputs": {"\\ud800": "good"}}', 400),
            (b'{"model": "tiny:\\ud800", "inputs": "good"}', 404),
            (b'{"model": "tiny:p0", "inputs": ""}', 400), (b'{"model": "tiny:p0", "inputs": ["good", " \\n"]}', 400),
            (b'{"model": "tiny:p0", "inputs": []}', 400), (b'{"model": "tiny:p0", "inputs": 5}', 400),
            (b'{"model": "tiny:p0", "inputs": {"text": NaN}}', 400),
            (b'{"model": "tiny:p0", "inputs": {"text": null}}', 400),
            (b'{"model": "tiny:p0", "inputs": "good", "top_k": 0}', 400),
            (b'{"model": "tiny:p0", "inputs": "good", "k": 1}', 400),
            (b'{"model": "tiny:p3", "inputs": "good"}', 400), (b'{"model": "", "inputs": "good"}', 404),
            (b'{"model": "tiny:p0", "inputs": "' + b"good " * 100 + b'"}', 400),
            (b'{"model": "tiny:p0", "inputs": "' + b"g" * 100000 + b'"}', 400),
            (b'{"model": "tiny:p0", "inputs": ' + b"9" * 5000 + b"}", 400),
        ],
    )  # fmt: skip
    def test_whatever_is_sent_is_answered_with_a_line_and_never_with_500(self, bank, body, status):
        async def test(client, service):
            response = await client.post("/classify", content=body, headers={"Content-Type": "application/json"})
            assert response.status_code == status, response.text
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert "\n" not in error["message"]
            assert response.headers["x-request-id"]

        served(bank, test)

    @pytest.mark.parametrize(
        ("path", "body", "message"),
        [
            (
                "/classify",
                {"inputs": []},
                "inputs: give a text, an object of columns that are texts or numbers, or a",
            ),
            ("/classify", {"inputs": None}, "inputs: give a text, an object of columns"),
            ("/classify", {"inputs": ["a", 5]}, "inputs: give a text, an object of columns"),
            ("/classify", {}, "inputs: Field required"),
            ("/v1/completions", {"prompt": []}, "prompt: give a text, an object of columns"),
            ("/v1/completions", {"prompt": [[5, 7]]}, "prompt: give a text, an object of columns"),
            ("/v1/completions", {"prompt": "a", "stop": list("abcde")}, "stop: give a text, or a list of at most four"),
            (
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": 5}]},
                "messages.0.content: give a text",
            ),
        ],
    )
    def test_a_field_of_several_forms_is_answered_with_all_of_them(self, bank, path, body, message):
        async def test(client, service):
            response = await client.post(path, json={"model": "tiny:p0", **body})
            error = response.json()["error"]
            assert (response.status_code, error["message"][: len(message)]) == (400, message)
            assert error["param"] == message.partition(":")[0]

        served(bank, test)

    @pytest.mark.parametrize("headers", [{"Content-Type": "application/x-www-form-urlencoded"}, {}])
    def test_a_body_that_is_not_said_to_be_json_is_answered_with_the_header(self, bank, headers):
        async def test(client, service):
            body = b'{"model": "tiny:p0", "inputs": "good"}'
            response = await client.post("/classify", content=body, headers=headers)
            wanted = "the body is read as JSON; send it with the header Content-Type: application/json"
            assert (response.status_code, response.json()["error"]["message"]) == (400, wanted)
            other = await client.post("/classify", content=b"[]", headers={"Content-Type": "application/json"})
            assert "header" not in other.json()["error"]["message"]

        served(bank, test)

    def test_a_long_body_is_413_and_a_long_text_says_how_to_have_it_cut(self, bank):
        async def test(client, service):
            body = {"model": "tiny:p0", "inputs": "good " * 100}
            assert "truncate" in (await client.post("/classify", json=body)).json()["error"]["message"]
            answer = (await client.post("/classify", json={**body, "truncate": True})).json()["answers"][0]
            assert answer["truncated"]
            response = await client.post("/classify", json={**body, "inputs": "good " * 1000})
            assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")

        served(bank, test, body_bytes=4000)

    def test_over_capacity_is_429_at_once_with_the_seconds_to_wait(self, bank):
        async def test(client, service):
            run, let_go = service.engine.run, threading.Event()
            service.engine.run = lambda works: (let_go.wait(60), run(works))[1]
            body = {"model": "tiny:p0", "inputs": ["good"] * 4}
            asking = [asyncio.create_task(client.post("/classify", json=body)) for _ in range(6)]
            # What is refused does not wait for a pass: none ends before `let_go`.
            ended, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result().status_code for task in ended} == {429}
            let_go.set()
            answers = await asyncio.gather(*asking)
            assert {answer.status_code for answer in answers} == {200, 429}
            assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 429)

        served(bank, test, Limits(batch_rows=4, waiting_tokens=40))

    def test_while_it_is_full_a_body_no_shorter_than_a_refused_one_is_not_even_read(self, bank):
        async def test(client, service):
            run, began, let_go = service.engine.run, threading.Event(), threading.Event()
            service.engine.run = lambda works: (began.set(), let_go.wait(60), run(works))[-1]
            body = {"model": "tiny:p0", "inputs": ["good"] * 4}
            asking = [asyncio.create_task(client.post("/classify", json=body))]
            # What was refused is forgotten as a pass begins: none begins from here to `let_go`.
            await asyncio.to_thread(began.wait, 60)
            asking += [asyncio.create_task(client.post("/classify", json=body)) for _ in range(5)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            long, short = b"{" + b" " * 200, b"{"
            answers = [await client.post("/classify", content=content) for content in (long, short)]
            assert [answer.status_code for answer in answers] == [429, 400]
            assert int(answers[0].headers["Retry-After"]) >= 1
            assert (await client.get("/prompts")).status_code == 200
            let_go.set()
            statuses = [(await task).status_code for task in asking]
            assert set(statuses) == {200, 429}
            assert (await client.post("/classify", content=long)).status_code == 400

        served(bank, test, Limits(batch_rows=4, waiting_tokens=40))

    def test_the_same_keys_open_everything_but_changes(self, bank):
        async def test(client, service):
            for path in ("/v1/models", "/prompts", "/metrics", "/openapi.json"):
                assert (await client.get(path)).status_code == 401
                assert (await client.get(path, headers={"Authorization": f"Bearer {KEY}x"})).status_code == 401
                assert (await client.get(path, headers={"Authorization": f"Bearer {KEY}"})).status_code == 200
            for path in ("/", "/health", "/ready"):
                assert (await client.get(path)).status_code == 200
            for headers in ({}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": b"Basic \xe9"}):
                assert (await client.delete("/prompts/p0", headers=headers)).status_code == 401
            assert "p0" in service.bank.prompts

        served(bank, test, keys=(KEY,), admin_token=TOKEN)

    def test_another_site_gets_nothing(self, bank):
        async def test(client, service):
            response = await client.get("/prompts", headers={"Origin": "http://elsewhere.example"})
            assert "access-control-allow-origin" not in response.headers
            assert (await client.get("/prompts", headers={"Host": "elsewhere.example"})).status_code == 400

        served(bank, test, hosts=("localhost",))

    def test_the_log_tells_what_happened_and_nothing_of_the_texts(self, bank, caplog, monkeypatch):
        async def test(client, service):
            headers = {"X-Request-ID": "mine-1"}
            body = {"model": "tiny:p0", "inputs": "terrible secret"}
            response = await client.post("/classify", json=body, headers=headers)
            assert response.headers["x-request-id"] == response.json()["id"] == "mine-1"
            monkeypatch.setattr(service.engine, "run", lambda works: [RuntimeError("secret") for _ in works])
            assert (await client.post("/classify", json=body)).status_code == 500
            metrics = (await client.get("/metrics")).text
            assert 'softprompt_requests_total{route="/classify",status="200"} 1.0' in metrics
            assert "softprompt_prompts 8.0" in metrics

        with caplog.at_level(logging.INFO, "softprompt.serving"):
            served(bank, test)
        lines = [json.loads(line) for line in caplog.messages if line.startswith("{")]
        assert (
            lines[0].items() >= {"request": "mine-1", "route": "/classify", "status": 200, "model": "tiny:p0"}.items()
        )
        assert [line["status"] for line in lines] == [200, 500, 200]
        assert "secret" not in caplog.text

    def test_an_id_that_is_none_is_replaced_and_what_was_sent_is_not_repeated(self, bank):
        async def test(client, service):
            for given in ("a b", "x" * 65, 'a"b'):
                response = await client.get("/health", headers={"X-Request-ID": given})
                assert len(response.headers["x-request-id"]) == 32
            body = {"model": "tiny:p0", "inputs": {"text": ["secret"]}}
            assert "secret" not in (await client.post("/classify", json=body)).text
            many = await client.post("/classify", json={"model": "tiny:p0", "inputs": ["good"] * 3})
            assert (many.status_code, "3 inputs in one request, 2 are allowed" in many.text) == (400, True)
            assert "default-src 'none'" in (await client.get("/")).headers["Content-Security-Policy"]

        served(bank, test, max_inputs=2)

    def test_a_request_that_waits_longer_than_its_time_is_answered_with_504(self, bank):
        async def test(client, service):
            run = service.engine.run
            service.engine.run = lambda works: (time.sleep(0.8), run(works))[1]
            body = {"model": "tiny:p0", "inputs": "good"}
            answers = await asyncio.gather(*(client.post("/classify", json=body) for _ in range(2)))
            assert [answer.status_code for answer in answers] == [200, 504]

        served(bank, test, Limits(batch_rows=1, timeout=0.5, max_wait=0.0))

    def test_a_client_that_does_not_take_its_answer_is_given_up(self, bank, caplog):
        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            await asyncio.sleep(5)

        async def test(client, service):
            scope = {
                "type": "http", "method": "GET", "path": "/health", "headers": [], "query_string": b"",
                "http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "root_path": "",
            }  # fmt: skip
            await asyncio.wait_for(build_app(service)(scope, receive, send), 2)

        with caplog.at_level(logging.INFO, "softprompt.serving"):
            served(bank, test, send_timeout=0.05)
        assert json.loads(caplog.messages[-1])["status"] == 499

    def test_a_client_that_is_slow_to_send_is_answered_with_408(self, bank):
        async def slow():
            yield b'{"model": '
            await asyncio.sleep(5)

        async def test(client, service):
            response = await client.post("/classify", content=slow(), headers={"Content-Type": "application/json"})
            assert response.status_code == 408

        served(bank, test, body_timeout=0.05)


class Caller:
    """A request whose client stays, or leaves at once."""

    def __init__(self, leaves: bool):
        self.leaves = leaves

    async def receive(self) -> dict[str, str]:
        if not self.leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


class TestTextsThatWaitToBeTokenised:
    def test_those_of_a_client_that_left_are_not_read(self, bank, monkeypatch):
        async def test(client, service):
            read, work = [], service.engine.work

            def slow(served, given, **options):
                time.sleep(0.05)
                read.append(given)
                return work(served, given, **options)

            monkeypatch.setattr(service.engine, "work", slow)
            # As many threads as there are, and twice as many requests that wait for one of them.
            threads = ThreadPoolExecutor(2)
            asyncio.get_running_loop().set_default_executor(threads)
            staying = [service.works(Caller(False), bank.get("p0"), ["good"]) for _ in range(2)]
            leaving = [service.works(Caller(True), bank.get("p0"), ["bad"]) for _ in range(4)]
            outcomes = await asyncio.gather(*staying, *leaving, return_exceptions=True)
            assert [type(works) for works in outcomes[:2]] == [list, list]
            assert all(isinstance(outcome, ClientLeft) for outcome in outcomes[2:])
            await asyncio.to_thread(lambda: None)
            assert read == ["good", "good"]

        served(bank, test)

    def test_what_comes_behind_too_many_of_them_is_refused_at_once(self, bank, monkeypatch):
        monkeypatch.setattr("softprompt.serving.http.service.UNREAD", 3)

        async def test(client, service):
            several = [service.works(Caller(False), bank.get("p0"), ["good"] * rows) for rows in (5, 1, 1)]
            outcomes = await asyncio.gather(*several, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [list, Overloaded, Overloaded]
            assert str(outcomes[1]).startswith("the server is busy: 5 texts wait and 3 may; try again in ")
            assert len(await service.works(Caller(False), bank.get("p0"), ["good"])) == 1

        served(bank, test)
