"""A server under mixed load and faults: every answer is compared with a direct call of the model.

    python -m benchmarks.studies.soak --requests 10000 --sentences 200

A tiny random base and hypernetwork are served by `t2l serve` in a process of its own. Clients ask at
once, whole and streamed; some read slowly, some go away in the middle, some send broken bodies. The
store holds fewer adapters than there are sentences. While they ask, the disk takes no more for a
while, and the server is killed and started again. A request that fails for such a reason is repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.lib import RESULTS, ROOT, command, machine
from text_to_lora.files import write_json
from text_to_lora.generate import TextToLora
from text_to_lora.inference.answers import answer

TOKENS = 12  # of an answer
INPUTS = ("The soup is cold", "hello", "a b c", "One longer line of words", "x")
BROKEN = (
    b"",
    b"{",
    b"[" * 300,
    b'{"model": 3}',
    b'{"model": "t2l: "}',
    b'{"model": "nobody"}',
    b"\xff",
)
# Of 100 requests; the rest are whole answers.
SHARES = {"streamed": 25, "slow": 3, "vanishing": 4, "broken": 4, "base": 4}
WAIT = 120.0  # seconds that a client waits for anything

Wanted = dict[tuple[str | None, str], str]


class Server:
    """The served process, which can be killed and started again."""

    def __init__(self, folder: Path, stored: int) -> None:
        places = (folder / "hypernet", "--base", folder / "base", "--store", folder / "store")
        options = ("--port", "0", "--max-adapters", stored, "--max-queue", 64)
        self._command = [
            sys.executable,
            "-m",
            "text_to_lora.cli",
            "serve",
            *map(str, places + options),
        ]
        self.memory: list[list[float]] = []  # MiB over time, of each process
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        address = re.search(r"http://[\d.]+:\d+", line)
        if not address:
            raise SystemExit(f"the server did not start: {line}{self._process.stderr.read()}")
        self.url = address[0]
        self.memory.append([])

    def note_memory(self) -> None:
        self.memory[-1].append(psutil.Process(self._process.pid).memory_info().rss / 2**20)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def fill_disk(self, full: bool) -> None:
        """Let the process write files of no more than 512 bytes, or again of any size."""
        size = 512 if full else resource.RLIM_INFINITY
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)


class Soak:
    """All requests, in flight at most `clients` at once."""

    def __init__(self, server: Server, wanted: Wanted, options: argparse.Namespace) -> None:
        self.server, self.wanted, self.options = server, wanted, options
        self.random = random.Random(options.seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[dict[str, Any]] = []
        self.done = 0
        self.sentences = sorted({sentence for sentence, _ in wanted if sentence is not None})

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.options.clients)
        async with httpx.AsyncClient(timeout=WAIT, limits=limits) as self.http:
            faults = asyncio.create_task(self.cause_faults())
            numbers = iter(range(self.options.requests))
            await asyncio.gather(*(self.client(numbers) for _ in range(self.options.clients)))
            await faults

    async def client(self, numbers: Any) -> None:
        for _ in numbers:
            kind = self.random.choices(
                ["whole", *SHARES], [100 - sum(SHARES.values()), *SHARES.values()]
            )[0]
            await self.request(kind)
            self.done += 1

    async def request(self, kind: str) -> None:
        sentence = None if kind == "base" else self.random.choice(self.sentences)
        text = self.random.choice(INPUTS)
        for _ in range(2000):
            try:
                if kind == "broken":
                    outcome = await self.send_broken()
                else:
                    outcome = await self.ask(kind, sentence, text)
            except (httpx.TransportError, json.JSONDecodeError):
                outcome = "again: connection"
            self.counts[outcome] += 1
            if not outcome.startswith("again"):
                return
            await asyncio.sleep(0.1)
        self.counts["lost"] += 1

    async def send_broken(self) -> str:
        url = f"{self.server.url}/v1/chat/completions"
        reply = await self.http.post(url, content=self.random.choice(BROKEN))
        good = reply.status_code in (400, 404) and "error" in reply.json()
        return "refused" if good else f"wrong: status {reply.status_code} for a broken body"

    async def ask(self, kind: str, sentence: str | None, text: str) -> str:
        body = {
            "model": "base" if sentence is None else f"t2l:{sentence}",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": TOKENS,
            "stream": kind in ("streamed", "slow", "vanishing"),
        }
        if sentence is None:
            body["model"] = self.options.base_name
        url = f"{self.server.url}/v1/chat/completions"
        async with self.http.stream("POST", url, json=body) as reply:
            if reply.status_code in (429, 503, 507):
                return f"again: status {reply.status_code}"
            if reply.status_code != 200:
                return f"wrong: status {reply.status_code} {(await reply.aread())[:200]!r}"
            if not body["stream"]:
                content = json.loads(await reply.aread())["choices"][0]["message"]["content"]
                return self.check(sentence, text, content)
            parts, ended = [], False
            async for line in reply.aiter_lines():
                if kind == "vanishing":
                    return "went away"
                if kind == "slow":
                    await asyncio.sleep(0.1)
                if line == "data: [DONE]":
                    ended = True
                elif line:
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        return "again: error in a stream"
                    parts.append(event["choices"][0]["delta"].get("content", ""))
        return self.check(sentence, text, "".join(parts)) if ended else "again: cut stream"

    def check(self, sentence: str | None, text: str, content: str) -> str:
        if content == self.wanted[sentence, text]:
            return "right"
        owners = [str(key) for key, value in self.wanted.items() if value == content]
        wanted = self.wanted[sentence, text]
        facts = {"sentence": sentence, "input": text, "got": content, "wanted": wanted}
        self.wrong.append(facts | {"answer of": owners[:3]})
        return "wrong: answer"

    async def cause_faults(self) -> None:
        """A disk that takes no more from 30 to 45 % of the requests, a kill at 60 %."""
        total = self.options.requests
        plan: list[tuple[float, Callable[[], None]]] = [
            (0.3 * total, lambda: self.server.fill_disk(True)),
            (0.45 * total, lambda: self.server.fill_disk(False)),
            (0.6 * total, self.restart),
        ]
        beginning = time.monotonic()
        while self.done < total:
            if plan and (self.done >= plan[0][0] or (len(plan) == 2 and self.stuck())):
                plan.pop(0)[1]()
            self.server.note_memory()
            if time.monotonic() - beginning > 30:
                beginning = time.monotonic()
                print(f"{self.done} of {total}: {dict(self.counts)}", flush=True)
            await asyncio.sleep(0.5)

    def stuck(self) -> bool:
        """Whether the clients wait for the disk alone."""
        return bool(self.counts["again: status 507"] > self.options.requests // 10)

    def restart(self) -> None:
        """Kill the server and start it again."""
        self.server.kill()
        self.server.start()


def prepare(folder: Path, sentences: int) -> Wanted:
    """Write the tiny models; gives the answer of every sentence to every input."""
    sys.path.append(str(ROOT / "tests"))
    tiny_models = import_module("tiny_models")
    base = tiny_models.save_base(folder / "base")
    t2l = TextToLora.from_pretrained(tiny_models.save_tiny_hypernet(folder / "hypernet", base))
    model, tokenizer = t2l.load_base(str(base))
    texts = [f"Sentence {n}: {random.Random(n).choice('abcdefgh') * 3}" for n in range(sentences)]
    weights = t2l.generate(texts).weights
    wanted: Wanted = {}
    for text in INPUTS:
        inputs = [text] * len(texts)
        rows = range(len(texts))
        answers = answer(
            model, tokenizer, inputs, weights=weights, rows=rows, max_new_tokens=TOKENS
        )
        wanted |= {(sentence, text): one for sentence, one in zip(texts, answers, strict=True)}
        wanted[None, text] = answer(model, tokenizer, [text], max_new_tokens=TOKENS)[0]
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a server under mixed load and faults.")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--stored", type=int, default=150, help="adapters that the store keeps")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "serving" / "soak.json")
    options = parser.parse_args()
    before, started = machine(), time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wanted = prepare(folder, options.sentences)
        options.base_name = str(folder / "base")
        server = Server(folder, options.stored)
        soak = Soak(server, wanted, options)
        try:
            asyncio.run(soak.run())
            metrics = httpx.get(f"{server.url}/metrics").text
        finally:
            code = server.stop()
        stored = len(list((folder / "store" / "adapters").glob("t2l-*")))
    problems = {
        key: value for key, value in soak.counts.items() if key.startswith(("wrong", "lost"))
    }
    result = {
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": before | {"load_average_1_min_after": round(os.getloadavg()[0], 2)},
        "seconds": round(time.perf_counter() - started, 1),
        "requests": options.requests,
        "distinct_answers": len(set(wanted.values())),
        "outcomes": dict(sorted(soak.counts.items())),
        "problems": problems,
        "examples_of_wrong_answers": soak.wrong[:5],
        "adapters_stored_at_the_end": stored,
        "exit_code_after_sigterm": code,
        "memory_mib": [
            {
                "after_a_tenth": round(samples[len(samples) // 10]),
                "in_the_middle": round(samples[len(samples) // 2]),
                "peak": round(max(samples)),
                "end": round(samples[-1]),
            }
            for samples in server.memory
        ],
        "adapter_uses_since_the_restart": {
            key: int(float(value))
            for key, value in re.findall(r't2l_adapter_uses_total\{origin="(\w+)"\} (\S+)', metrics)
        },
    }
    write_json(options.out, result)
    print(json.dumps(result["outcomes"], indent=2))
    print(f"problems: {problems}; memory {result['memory_mib']}")


if __name__ == "__main__":
    main()
