"""A server under more than it can bear: every answer right or refused, memory bounded, and well again within a second.

    python benchmarks/load.py [--seconds 60] [--requests 10000] [--parts ...]     # four minutes on a calm machine
    python benchmarks/load.py --quick                                            # does everything run?

`softprompt serve lab-gpt` with 50 prompts of different lengths runs in a process of its own; clients and server share
the machine. Each answer is compared with the answer to that text alone, computed without a server and without compiled
prompts.

- **together**: 10,000 requests in one moment, through HTTP; who is refused (429, 503) comes again. And 10,000 rows
  that wait for one batcher at the same time, without HTTP.
- **overload**: requests of 32 texts, ten times as many a second as the server answers, for a minute.
- **slow**: 300 connections that send nothing, half a header or half a body, while others ask as usual.
- **dropped**: 10,000 connections that are opened and dropped: at once, within the request, or before the answer.

Writes results/load.json; the exit code is 1 where an answer was wrong or lost, or a bound was exceeded.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from softprompt import load_backbone
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving import Admission, Batcher, Engine, Limits, PromptBank, write_bank

from serving import drawn

RESULT = Path(__file__).parent / "results" / "load.json"
MODEL, PROMPTS, TEXTS = "lab-gpt", 50, 20
# Texts of one request under overload, so that the client is not what is measured.
AT_ONCE = 32
# Memory that a server may take beside what it took before, and seconds in which it has to be well again.
MOST_MB, WELL = 200.0, 1.0


def main() -> None:
    """Run the parts, print what happened, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="200 requests, two seconds; nothing is written")
    given = parser.parse_args()
    if given.quick:
        given.requests, given.seconds = 200, 2.0
    torch.set_num_threads(1)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    result = asyncio.run(measured(given))
    faults = [f"{part}: {fault}" for part in given.parts for fault in result[part]["faults"]]
    sys.exit("\n".join(faults))


@dataclass
class Case:
    """A request and its right answer."""

    prompt: str
    text: str
    label: str
    chances: dict[str, float]

    def is_answered_by(self, line: dict[str, Any]) -> bool:
        """Whether a line of /classify is the answer to this text alone."""
        scores = {score["label"]: score["probability"] for score in line["scores"]}
        near = all(abs(scores[label] - chance) < 1e-4 for label, chance in self.chances.items())
        # Of two labels that are equally likely up to rounding, either may be named.
        return near and (line["label"] == self.label or abs(self.chances[self.label] - 0.5) < 1e-4)


@dataclass
class Load:
    """A server in a process of its own, and what is asked of it."""

    port: int
    process: psutil.Process
    cases: Sequence[Case]
    requests: int
    seconds: float

    @property
    def megabytes(self) -> float:
        """Memory of the server."""
        return self.process.memory_info().rss / 1e6

    async def post(self, prompt: str, inputs: Any) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one request over a connection of its own."""
        body = json.dumps({"model": f"m:{prompt}", "inputs": inputs}).encode()
        return await self.exchange(b"POST /classify", body)

    async def exchange(self, line: bytes, body: bytes = b"") -> tuple[int, dict[str, str], Any]:
        """One request, written by hand: a client of a library costs more than the server."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(head(line, len(body)) + body)
            await writer.drain()
            whole = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        top, _, rest = whole.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        if not first:
            raise ConnectionResetError
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        is_json = headers.get("content-type", "").startswith("application/json")
        return int(first.split()[1]), headers, json.loads(rest) if is_json else rest.decode()

    async def ask(self, case: Case) -> tuple[bool, Counter[str]]:
        """Ask until there is an answer: whether it is right, and how often what was answered instead."""
        refused: Counter[str] = Counter()
        while True:
            try:
                status, headers, reply = await self.post(case.prompt, case.text)
            except OSError:
                status, headers, reply = 0, {}, None
            if status == 200 and reply is not None:
                return case.is_answered_by(reply["answers"][0]), refused
            refused["connection refused" if status == 0 else str(status)] += 1
            if status not in (0, 429, 503):
                return False, refused
            await asyncio.sleep(float(headers.get("retry-after", 0.5)) * random.uniform(0.5, 1.5))

    async def waiting(self) -> int:
        """Rows that wait in the server."""
        _, _, text = await self.exchange(b"GET /metrics")
        return int(float(re.findall(r"(?m)^softprompt_waiting_rows (\S+)", text)[0]))

    async def well_after(self) -> float:
        """Seconds until requests are answered as usual: right, in less than a quarter of a second, nothing waiting."""
        began = time.perf_counter()
        while True:
            at = time.perf_counter()
            with contextlib.suppress(OSError):
                status, _, reply = await self.post(self.cases[0].prompt, self.cases[0].text)
                is_right = status == 200 and self.cases[0].is_answered_by(reply["answers"][0])
                if is_right and time.perf_counter() - at < 0.25 and await self.waiting() == 0:
                    return at - began
            await asyncio.sleep(0.01)


def head(line: bytes, length: int) -> bytes:
    """What comes before the body of a request."""
    return (
        line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Content-Length: " + str(length).encode() + b"\r\n\r\n"
    )


async def measured(given: argparse.Namespace) -> dict[str, Any]:
    """The result of each part."""
    results: dict[str, Any] = {}
    backbone = load_backbone(MODEL, device="cpu")
    # Of 50 lengths, so that the rows of a pass stand behind prefixes of many.
    prompts = {
        name: SoftPrompt(prompt.vectors[: 1 + number % 10], prompt.provenance)
        for number, (name, prompt) in enumerate(drawn(backbone, PROMPTS, 10).items())
    }
    bank = PromptBank(Admission(backbone))
    assert not bank.put(prompts.items())
    cases = answered_alone(bank, Engine(backbone, prefix_bytes=0))
    with tempfile.TemporaryDirectory() as place:
        file = write_bank(Path(place) / "bank", prompts.items())
        for part in given.parts:
            async with served(file, cases, given) as load:
                results[part] = await PARTS[part](load)
            if part == "together":
                results[part]["without HTTP"] = await in_one_batcher(bank, cases, given.requests)
            print(part, json.dumps(results[part], indent=1), flush=True)
            if not given.quick:
                # Parts that a run does not measure stay in the file.
                kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
                RESULT.write_text(json.dumps({**kept, part: results[part]}, indent=1) + "\n")
    return results


def answered_alone(bank: PromptBank, engine: Engine) -> list[Case]:
    """Texts of words that the model knows, each answered in a pass of its own."""
    draw = random.Random(0)
    words = sorted(word for word in engine.backbone.tokenizer.get_vocab() if word.strip("Ġ▁").isalpha())
    texts = [" ".join(draw.choices([w.strip("Ġ▁") for w in words], k=draw.randint(3, 24))) for _ in range(TEXTS)]
    cases = []
    for (name, served), text in itertools.product(bank.prompts.items(), texts):
        (answer,) = engine.answer([engine.work(served, text)])
        cases.append(Case(name, text, answer.text, answer.probabilities(served.asked.task.labels)))
    draw.shuffle(cases)
    return cases


@contextlib.asynccontextmanager
async def served(file: Path, cases: Sequence[Case], given: argparse.Namespace) -> AsyncIterator[Load]:
    """A new server that has answered each case once, so that its memory is what it needs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "import sys; from softprompt.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", command, "serve", MODEL, "--prompts", str(file), "--port", str(port)]
    # A few seconds of work may wait: what comes on top is refused.
    arguments += ["--model-name", "m", "--waiting-tokens", "32768"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(arguments, stdout=log, stderr=log)
        load = Load(port, psutil.Process(server.pid), cases, given.requests, given.seconds)
        try:
            await started(load)
            limit = asyncio.Semaphore(16)

            async def ask(case: Case) -> None:
                async with limit:
                    await load.ask(case)

            await asyncio.gather(*map(ask, cases))
            yield load
        finally:
            server.terminate()
            server.wait(60)


async def started(load: Load) -> None:
    """Wait until the server takes requests."""
    until = time.monotonic() + 120
    while time.monotonic() < until and load.process.is_running():
        with contextlib.suppress(OSError):
            if (await load.exchange(b"GET /ready"))[0] == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit("the server did not start")


@contextlib.asynccontextmanager
async def memory(load: Load) -> AsyncIterator[list[float]]:
    """Within, the memory of the server is read four times a second."""
    seen = [load.megabytes]

    async def read() -> None:
        while True:
            await asyncio.sleep(0.25)
            seen.append(load.megabytes)

    reading = asyncio.create_task(read())
    try:
        yield seen
    finally:
        reading.cancel()
        seen.append(load.megabytes)


def judged(result: dict[str, Any], wrong: int, seen: Sequence[float], well: float) -> dict[str, Any]:
    """A part's result with its memory and what is beyond a bound."""
    more = max(seen) - seen[0]
    faults = [f"{wrong} answers were wrong or lost"] if wrong else []
    faults += [f"memory grew by {more:.0f} MB"] if more > MOST_MB else []
    faults += [f"well again after {well:.2f} s"] if well > WELL else []
    return {
        **result,
        "wrong or lost": wrong,
        "MB before": seen[0],
        "MB more at most": more,
        "MB more after": seen[-1] - seen[0],
        "seconds until well": well,
        "faults": faults,
    }


async def together(load: Load) -> dict[str, Any]:
    """Many requests in one moment."""
    chosen = [load.cases[number % len(load.cases)] for number in range(load.requests)]
    began = time.perf_counter()
    async with memory(load) as seen:
        replies = await asyncio.gather(*map(load.ask, chosen))
        seconds = time.perf_counter() - began
        well = await load.well_after()
    refused: Counter[str] = sum((refused for _, refused in replies), Counter())
    wrong = sum(not is_right for is_right, _ in replies)
    result = {"requests": len(replies), "right": len(replies) - wrong, "seconds": seconds, "came again after": refused}
    return judged(result, wrong, seen, well)


async def in_one_batcher(bank: PromptBank, cases: Sequence[Case], requests: int) -> dict[str, Any]:
    """As many rows that wait for one batcher at the same time."""
    engine = Engine(bank.admission.backbone)
    batcher = Batcher(engine, Limits(waiting_tokens=10**9))
    chosen = [cases[number % len(cases)] for number in range(requests)]
    works = [engine.work(bank.get(case.prompt), case.text) for case in chosen]
    batcher.start()
    began = time.perf_counter()
    answers = await asyncio.gather(*(batcher.answer([work]) for work in works))
    seconds = time.perf_counter() - began
    await batcher.close()
    right = 0
    for case, work, (answer,) in zip(chosen, works, answers, strict=True):
        chances = answer.probabilities(work.served.asked.task.labels)
        scores = [{"label": label, "probability": chance} for label, chance in chances.items()]
        right += case.is_answered_by({"label": answer.text, "scores": scores})
    return {"requests": len(works), "right": right, "seconds": seconds}


async def overload(load: Load) -> dict[str, Any]:
    """Ten times as many requests a second as are answered."""
    by_prompt = {case.prompt: [other for other in load.cases if other.prompt == case.prompt] for case in load.cases}
    groups = [list(itertools.islice(itertools.cycle(cases), AT_ONCE)) for cases in by_prompt.values()]
    turn = itertools.cycle(groups)
    counts: Counter[str] = Counter()
    refusals: list[float] = []

    async def ask() -> None:
        cases, began = next(turn), time.perf_counter()
        try:
            status, headers, reply = await load.post(cases[0].prompt, [case.text for case in cases])
        except OSError:
            counts["connection refused"] += 1
            return
        if status == 200:
            lines = reply["answers"]
            is_right = all(case.is_answered_by(line) for case, line in zip(cases, lines, strict=True))
            counts["right" if is_right else "wrong"] += 1
            return
        counts[str(status)] += 1
        refusals.append(time.perf_counter() - began)
        if status != 429 or int(headers["retry-after"]) < 1:
            counts["wrong"] += status != 503

    began = time.perf_counter()
    while time.perf_counter() - began < min(5.0, load.seconds):
        await asyncio.gather(*(ask() for _ in range(4)))
    capacity = counts["right"] / (time.perf_counter() - began)
    counts.clear()
    refusals.clear()
    async with memory(load) as seen:
        began, sent, asking = time.perf_counter(), 0, set()
        while (now := time.perf_counter() - began) < load.seconds:
            while sent < 10 * capacity * now:
                sent += 1
                task = asyncio.create_task(ask())
                asking.add(task)
                task.add_done_callback(asking.discard)
            await asyncio.sleep(0.002)
        offered = sent / (time.perf_counter() - began)
        await asyncio.gather(*asking)
        well = await load.well_after()
    result = {
        "texts of a request": AT_ONCE, "requests a second alone": capacity, "offered a second": offered,
        "offered over capacity": offered / capacity, "sent": sent, "answers": dict(counts),
        "milliseconds of a refusal, median": 1000 * statistics.median(refusals or [0.0]),
        "milliseconds of a refusal, of 99 in 100": 1000 * statistics.quantiles(refusals or [0.0, 0.0], n=100)[98],
    }  # fmt: skip
    lost = sent - sum(count for name, count in counts.items() if name != "wrong")
    return judged(result, counts["wrong"] + lost, seen, well)


async def slow(load: Load) -> dict[str, Any]:
    """Clients that send nothing, half a header or half a body, and others that ask as usual."""
    body = json.dumps({"model": f"m:{load.cases[0].prompt}", "inputs": load.cases[0].text}).encode()
    whole = head(b"POST /classify", len(body)) + body
    parts = {"nothing": b"", "half a header": whole[:40], "half a body": whole[: -len(body) // 2]}
    ended: Counter[str] = Counter()

    async def hold(kind: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
        writer.write(parts[kind])
        reply = await asyncio.wait_for(reader.read(), 60)
        ended[f"{kind}: {reply.split()[1].decode() if reply else 'closed'}"] += 1
        writer.close()

    began = time.perf_counter()
    async with memory(load) as seen:
        holding = [asyncio.create_task(hold(kind)) for kind in parts for _ in range(100)]
        await asyncio.sleep(1)
        times, wrong = [], 0
        for case in load.cases[:200]:
            at = time.perf_counter()
            wrong += not (await load.ask(case))[0]
            times.append(time.perf_counter() - at)
        await asyncio.gather(*holding)
        seconds, well = time.perf_counter() - began, await load.well_after()
    result = {"ended": dict(ended), "seconds until all had ended": seconds,
              "milliseconds of others, median": 1000 * statistics.median(times)}  # fmt: skip
    return judged(result, wrong, seen, well)


async def dropped(load: Load) -> dict[str, Any]:
    """Connections that are opened and dropped."""
    body = json.dumps({"model": f"m:{load.cases[0].prompt}", "inputs": [load.cases[0].text] * 4}).encode()
    whole = head(b"POST /classify", len(body)) + body
    parts, files = (b"", whole[: len(whole) // 2], whole), load.process.num_fds()
    refused = 0

    async def drop(number: int) -> None:
        nonlocal refused
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", load.port)
            writer.write(parts[number % len(parts)])
            await writer.drain()
            writer.close()
        except OSError:
            refused += 1

    async with memory(load) as seen:
        for first in range(0, load.requests, 500):
            await asyncio.gather(*map(drop, range(first, min(first + 500, load.requests))))
        well = await load.well_after()
    await asyncio.sleep(1)
    result = {"connections": load.requests, "refused": refused, "files more after": load.process.num_fds() - files}
    return judged(result, 0, seen, well)


PARTS: dict[str, Callable[[Load], Awaitable[dict[str, Any]]]] = {
    "together": together, "overload": overload, "slow": slow, "dropped": dropped
}  # fmt: skip

if __name__ == "__main__":
    main()
