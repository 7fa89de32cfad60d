"""What the server answers: chat completions and labels, as predict gives them."""

import asyncio
import dataclasses
import json
from typing import Any

import openai
import pytest
from softprompt.backbones import from_model
from softprompt.inference.answers import no_answer
from softprompt.serving import Draining, Engine, TooLate
from softprompt.serving.http.problems import of_error
from softprompt.serving.http.streams import events

from server_kit import served
from serving_kit import TOKENS, WRITTEN, bank_of, singles, some_inputs, some_prompts


def official(client: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)


def streamed(service: Any, answer: Any) -> Any:
    """The events of a stream whose work is answered by this coroutine function."""
    service.batcher.answer = answer
    work = service.engine.work(service.bank.get("p3"), "good movie", max_new_tokens=9)
    return events(service, work, lambda text, finish=None, first=False: {"text": text}, None)


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

    @pytest.mark.parametrize(
        ("error", "code"), [(no_answer(), "invalid_request"), (Draining("b"), "draining"), (TooLate("c"), "timeout")]
    )
    def test_an_error_in_a_stream_has_the_code_that_it_has_outside_of_one(self, error, code, bank):
        async def test(client, service):
            began = asyncio.Event()

            async def failing(works):
                works[0].tell("good")
                await began.wait()
                raise error

            stream = await streamed(service, failing)
            assert await anext(stream) == b'data: {"text": "good"}\n\n'
            began.set()
            (last,) = [event async for event in stream]
            outside = json.loads(bytes(of_error(error).body))
            assert json.loads(last.removeprefix(b"data: ")) == outside
            assert outside["error"]["code"] == code

        served(bank, test)

    def test_a_client_that_leaves_a_stream_leaves_no_task_behind(self, bank):
        async def test(client, service):
            before = asyncio.all_tasks()

            async def endless(works):
                works[0].tell("good")
                await asyncio.Event().wait()

            stream = await streamed(service, endless)
            await anext(stream)
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
            for _ in range(3):
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == before

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


def test_hundreds_of_requests_at_once_each_get_their_single_answer(backbone, bank):
    requests = [(prompt, given) for prompt, given in some_inputs(bank, 60) if prompt.asked.reading is not None]
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
