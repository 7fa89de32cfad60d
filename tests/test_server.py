"""The server: OpenAI's client, labels, changes of prompts, and what strangers may send; in one process, no network."""

import asyncio
import base64
import dataclasses
import json
import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from softprompt.backbones import from_model
from softprompt.serving import Engine, Limits, PromptBank, PromptFolder, Refusal, places_in
from softprompt.serving.faults import Overloaded
from softprompt.serving.http import ServerSettings, Service, build_app
from softprompt.serving.http.problems import ClientLeft
from softprompt.store import save_prompt, to_document
from softprompt.store._values import tensor_bytes

from serving_kit import TOKENS, WRITTEN, bank_of, singles, some_inputs, some_prompts

TOKEN = "a-token-for-changes"
KEY = "a-key-for-everybody"


@pytest.fixture(scope="module")
def backbone(tiny_gpt):
    return from_model(*tiny_gpt("llama"), name="tiny-llama")


@pytest.fixture(scope="module")
def prompts(backbone):
    return some_prompts(backbone, 8)


@pytest.fixture
def bank(backbone, prompts) -> PromptBank:
    return bank_of(backbone, prompts)


def served(bank: PromptBank, test: Any, limits: Limits | None = None, **settings: Any) -> Any:
    """Run a test that is given a client of an app with this bank, and the service."""
    service = Service(bank, Engine(bank.admission.backbone), ServerSettings(model_name="tiny", **settings), limits)
    app = build_app(service, drain=1.0)

    async def run() -> Any:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as c,
        ):
            return await test(c, service)

    return asyncio.run(run())


def official(client: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)


class TestOpenAI:
    def test_the_official_client_lists_models_and_gets_answers_as_predict_gives_them(self, bank, backbone):
        requests = [(bank.get(name), "good movie") for name in ("p0", "p2", "p3")]
        expected = [answer.get("label", answer.get("output")) for answer in singles(requests, backbone)]

        async def test(client, service):
            ai = official(client)
            names = [model.id async for model in ai.models.list()]
            assert names == ["tiny", *(f"tiny:p{n}" for n in range(8))]
            assert (await ai.models.retrieve("tiny:p3")).id == "tiny:p3"
            for (prompt, text), answer in zip(requests, expected, strict=True):
                model = f"tiny:{prompt.name}"
                whole = await ai.completions.create(model=model, prompt=[text, "bad"], max_tokens=TOKENS)
                assert whole.choices[0].text == answer
                assert [choice.index for choice in whole.choices] == [0, 1]
                chat = await ai.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": text}],
                    max_completion_tokens=TOKENS,
                    temperature=0,
                )
                assert chat.choices[0].message.content == answer
                assert chat.system_fingerprint == prompt.version
                assert chat.usage is not None
                assert chat.usage.prompt_tokens > prompt.length

        served(bank, test)

    def test_a_prompt_of_several_columns_that_writes_text_is_asked_with_rows(self, backbone, prompts):
        record = dataclasses.replace(WRITTEN, template="question: {question} context: {context}").to_json()
        provenance = dataclasses.replace(prompts["p0"].provenance, task=record)
        bank = bank_of(backbone, {"qa": dataclasses.replace(prompts["p0"], provenance=provenance)})
        rows = [{"question": "is it good", "context": text} for text in ("it was a great film", "bad")]
        expected = [answer["output"] for answer in singles([(bank.get("qa"), row) for row in rows], backbone)]

        async def test(client, service):
            async def ask(path: str, **asked: Any) -> Any:
                return await client.post(path, json={"model": "tiny:qa", **asked})

            many = await ask("/v1/completions", prompt=rows, max_tokens=TOKENS)
            assert [choice["text"] for choice in many.json()["choices"]] == expected
            one = await ask("/v1/completions", prompt=rows[1], max_tokens=TOKENS)
            assert [choice["text"] for choice in one.json()["choices"]] == expected[1:]
            text = (await ask("/v1/completions", prompt="good")).json()["error"]["message"]
            assert "give each input as a row with these names" in text
            chat = await ask("/v1/chat/completions", messages=[{"role": "user", "content": "good"}])
            assert chat.json()["error"]["message"] == (
                "'tiny:qa' answers rows of question, context, which a message has no place for; ask /v1/completions, "
                "with such a row as prompt"
            )

        served(bank, test)

    def test_a_stream_brings_the_same_answer_in_parts(self, bank):
        async def test(client, service):
            ai = official(client)
            for model in ("tiny", "tiny:p3", "tiny:p0"):
                whole = await ai.completions.create(model=model, prompt="good movie", max_tokens=9)
                options: Any = {"stream": True, "stream_options": {"include_usage": True}}
                parts = [
                    p
                    async for p in await ai.completions.create(
                        model=model, prompt="good movie", max_tokens=9, **options
                    )
                ]
                assert "".join(p.choices[0].text for p in parts if p.choices) == whole.choices[0].text
                assert parts[-1].usage == whole.usage
                assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason
                messages: Any = [{"role": "user", "content": [{"type": "text", "text": "good movie"}]}]
                chat = await ai.chat.completions.create(model=model, messages=messages, max_tokens=9, stream=True)
                assert "".join([p.choices[0].delta.content or "" async for p in chat]) == whole.choices[0].text

        served(bank, test)

    def test_an_answer_ends_at_a_stop(self, bank):
        async def test(client, service):
            ai = official(client)
            whole = (await ai.completions.create(model="tiny", prompt="good movie", max_tokens=9)).choices[0]
            stop = whole.text[4:7]
            assert stop
            cut = (await ai.completions.create(model="tiny", prompt="good movie", max_tokens=9, stop=[stop])).choices[0]
            assert cut.text == whole.text[: whole.text.index(stop)].strip()
            assert cut.finish_reason == "stop"
            parts = await ai.completions.create(model="tiny", prompt="good movie", max_tokens=9, stop=stop, stream=True)
            assert "".join([part.choices[0].text async for part in parts]) == cut.text

        served(bank, test)

    def test_what_would_change_the_answer_and_is_not_supported_is_refused(self, bank):
        async def test(client, service):
            ai = official(client)
            wrong: list[dict[str, Any]] = [
                {"temperature": 0.7},
                {"n": 2},
                {"top_p": 0.5},
                {"logprobs": 3},
                {"max_tokens": 5000},
            ]
            for options in wrong:
                with pytest.raises(openai.BadRequestError) as caught:
                    await ai.completions.create(model="tiny:p3", prompt="good", **options)
                assert caught.value.status_code == 400
            turns: Any = [{"role": role, "content": "good"} for role in ("system", "user", "assistant")]
            for messages in (turns[:2], turns[1:], turns[2:]):
                with pytest.raises(openai.BadRequestError, match="one message of role 'user'"):
                    await ai.chat.completions.create(model="tiny:p3", messages=messages)
            with pytest.raises(openai.BadRequestError, match="one text at a time is streamed"):
                await ai.completions.create(model="tiny:p3", prompt=["good", "bad"], stream=True)
            with pytest.raises(openai.NotFoundError, match="Did you mean 'p3'"):
                await ai.completions.create(model="tiny:p33", prompt="good")
            with pytest.raises(openai.NotFoundError, match="Did you mean 'tiny"):
                await ai.completions.create(model="tini:p3", prompt="good")

        served(bank, test)


class TestClassify:
    def test_labels_come_with_probabilities_as_predict_gives_them_the_likeliest_first(self, bank, backbone):
        requests = [
            (bank.get("p0"), "good movie"),
            (bank.get("p0"), "bad film"),
            (bank.get("p1"), {"a": "it", "b": "is"}),
        ]
        expected = singles(requests, backbone)

        async def test(client, service):
            answer = (
                await client.post("/classify", json={"model": "tiny:p0", "inputs": ["good movie", "bad film"]})
            ).json()
            for line, other in zip(answer["answers"], expected, strict=False):
                assert line["label"] == other["label"] == line["scores"][0]["label"]
                assert {s["label"]: s["probability"] for s in line["scores"]} == pytest.approx(
                    other["scores"], abs=1e-5
                )
            body = {"model": "tiny:p1", "inputs": {"a": "it", "b": "is"}, "top_k": 1}
            answer = (await client.post("/classify", json=body)).json()["answers"]
            assert [[score["label"] for score in line["scores"]] for line in answer] == [[expected[2]["label"]]]

        served(bank, test)

    def test_a_calibration_is_used_unless_it_is_not_wanted_and_the_frozen_model_answers_beside(self, backbone):
        bank = bank_of(backbone, {"calibrated": some_prompts(backbone, 13)["p12"]})

        async def test(client, service):
            body = {"model": "tiny:calibrated", "inputs": "good movie", "frozen": True}
            first, second = [
                (await client.post("/classify", json={**body, "calibrate": wanted})).json()["answers"][0]
                for wanted in (True, False)
            ]
            assert first["scores"] != second["scores"]
            assert first["frozen"] == second["frozen"] != {name: second[name] for name in ("label", "scores")}
            assert (await client.get("/prompts/calibrated")).json()["is_calibrated"]

        served(bank, test)

    @pytest.mark.parametrize("kind", ["bert heads", "bert words", "t5"])
    def test_encoders_and_encoder_decoders_classify(self, tiny_model, kind):
        answers = {"bert heads": "linear-head", "bert words": "label-words"}.get(kind, "auto")
        backbone = from_model(*tiny_model(kind.split()[0]), name="tiny", answers=answers)
        bank = bank_of(backbone, some_prompts(backbone, 3))
        requests = [(bank.get("p0"), "good movie")]

        async def test(client, service):
            body = {"model": "tiny:p0", "inputs": "good movie"}
            line = (await client.post("/classify", json=body)).json()["answers"][0]
            assert line["label"] == singles(requests, backbone)[0]["label"]
            response = await client.post("/classify", json={**body, "frozen": True})
            assert response.status_code == (400 if kind == "bert heads" else 200)
            if kind == "bert heads":
                line = (await client.post("/classify", json={**body, "model": "tiny:p2"})).json()["answers"][0]
                assert isinstance(line["value"], float)
            if kind != "t5":
                response = await client.post("/v1/completions", json={"model": "tiny", "prompt": "good"})
                assert (response.status_code, "generates nothing" in response.text) == (400, True)

        served(bank, test)


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
            run = service.engine.run
            service.engine.run = lambda works: (time.sleep(0.2), run(works))[1]
            body = {"model": "tiny:p0", "inputs": ["good"] * 4}
            ended = []

            async def ask():
                ended.append(await client.post("/classify", json=body))

            await asyncio.gather(*(ask() for _ in range(6)))
            # What is refused does not wait for a pass.
            refused = [response for response in ended if response.status_code == 429]
            assert refused == ended[: len(refused)] != []
            assert all(int(response.headers["Retry-After"]) >= 1 for response in refused)
            assert {response.status_code for response in ended[len(refused) :]} == {200}

        served(bank, test, Limits(batch_rows=4, waiting_tokens=40))

    def test_while_it_is_full_a_body_no_shorter_than_a_refused_one_is_not_even_read(self, bank):
        async def test(client, service):
            run = service.engine.run
            service.engine.run = lambda works: (time.sleep(0.2), run(works))[1]
            body = {"model": "tiny:p0", "inputs": ["good"] * 4}
            asking = [asyncio.create_task(client.post("/classify", json=body)) for _ in range(6)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            long, short = b"{" + b" " * 200, b"{"
            answers = [await client.post("/classify", content=content) for content in (long, short)]
            assert [answer.status_code for answer in answers] == [429, 400]
            assert int(answers[0].headers["Retry-After"]) >= 1
            assert (await client.get("/prompts")).status_code == 200
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
            service.engine.run = lambda works: (time.sleep(0.2), run(works))[1]
            body = {"model": "tiny:p0", "inputs": "good"}
            answers = await asyncio.gather(*(client.post("/classify", json=body) for _ in range(2)))
            assert [answer.status_code for answer in answers] == [200, 504]

        served(bank, test, Limits(batch_rows=1, timeout=0.1, max_wait=0.0))

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


class TestChanges:
    HEADERS = {"Authorization": f"Bearer {TOKEN}"}  # noqa: RUF012

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

    def test_what_the_model_refuses_is_told_once_until_it_changes(self, backbone, prompts, tmp_path):
        other = dataclasses.replace(prompts["p0"], vectors=torch.zeros(2, 17))
        identity = dataclasses.replace(other.provenance.backbone, embedding_size=17)
        other = dataclasses.replace(other, provenance=dataclasses.replace(other.provenance, backbone=identity))
        save_prompt(other, tmp_path / "a")
        folder = PromptFolder(tmp_path, bank_of(backbone, {}))
        assert len(folder.read()) == 1
        assert folder.read() == folder.read() == []
        save_prompt(prompts["p0"], tmp_path / "a", replace=True)
        assert folder.read() == []
        save_prompt(other, tmp_path / "a", replace=True)
        assert len(folder.read()) == 1


def test_hundreds_of_requests_at_once_each_get_their_single_answer(backbone, bank):
    requests = [(prompt, given) for prompt, given in some_inputs(bank, 60) if prompt.asked.way == "scores"]
    engine = Engine(backbone)
    expected = [engine.answer([engine.work(prompt, given)])[0] for prompt, given in requests]
    requests, expected = requests * 6, expected * 6
    assert len(requests) > 200

    async def test(client, service):
        async def ask(prompt, given):
            return (await client.post("/classify", json={"model": f"tiny:{prompt.name}", "inputs": given})).json()

        answers = await asyncio.gather(*(ask(*request) for request in requests))
        for answer, (prompt, _), other in zip(answers, requests, expected, strict=True):
            chances = {score["label"]: score["probability"] for score in answer["answers"][0]["scores"]}
            assert chances == pytest.approx(other.probabilities(prompt.asked.task.labels), abs=1e-4)
        assert "softprompt_waiting_tokens 0.0" in service.metrics.text().decode()

    served(bank, test)


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
