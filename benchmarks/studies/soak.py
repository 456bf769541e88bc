"""A server under mixed load and faults: every answer is compared with a direct call of the model.

    python -m benchmarks.studies.soak --requests 10000

A tiny random base and hypernetwork are served by `t2l serve` in a process of its own. Clients ask at
once, whole and streamed; some read slowly, some go away in the middle, some send broken bodies. The
store holds fewer adapters than there are sentences. While they ask, the disk takes no more for a
while, and the server is killed and started again. A request that fails for such a reason is repeated.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.lib import Recorder, import_from_tests, parse
from benchmarks.served import Server
from text_to_lora.generate import TextToLora
from text_to_lora.inference.answers import answer

TOKENS = 12  # of an answer
INPUTS = ("The soup is cold", "hello", "a b c", "One longer line of words", "x")
BROKEN = (b"", b"\xff", b"{", b"[" * 300, b'{"model": 3}', b'{"model": "t2l: "}', b'{"model": "x"}')
# Of 100 requests.
SHARES = {"whole": 60, "streamed": 25, "slow": 3, "vanishing": 4, "broken": 4, "base": 4}
SENTENCES, STORED = 200, 150  # that clients ask, and adapters that the store keeps
CLIENTS = 32
WAIT = 120.0  # seconds that a client waits for anything
UNLIMITED = resource.RLIM_INFINITY

Wanted = dict[tuple[str | None, str], str]


class Soak:
    """All requests, in flight at most CLIENTS at once.

    wanted: the right answer by sentence, None for the base, and input; base: its name
    """

    def __init__(self, server: Server, wanted: Wanted, base: str, requests: int) -> None:
        self.server, self.wanted, self.base, self.requests = server, wanted, base, requests
        self.random = random.Random(0)
        self.counts: Counter[str] = Counter()
        self.wrong: list[dict[str, Any]] = []
        self.memory: list[list[float]] = [[]]  # MiB over time, of each process of the server
        self.done = 0
        self.sentences = sorted({sentence for sentence, _ in wanted if sentence is not None})

    @property
    def url(self) -> str:
        return f"{self.server.url}/v1/chat/completions"

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=CLIENTS)
        async with httpx.AsyncClient(timeout=WAIT, limits=limits) as self.http:
            faults = asyncio.create_task(self.cause_faults())
            numbers = iter(range(self.requests))
            await asyncio.gather(*(self.client(numbers) for _ in range(CLIENTS)))
            await faults

    async def client(self, numbers: Iterator[int]) -> None:
        for _ in numbers:
            await self.request(*self.random.choices(list(SHARES), list(SHARES.values())))
            self.done += 1

    async def request(self, kind: str) -> None:
        sentence = None if kind == "base" else self.random.choice(self.sentences)
        text = self.random.choice(INPUTS)
        for _ in range(2000):
            try:
                broken = kind == "broken"
                outcome = await (self.send_broken() if broken else self.ask(kind, sentence, text))
            except (httpx.TransportError, json.JSONDecodeError):
                outcome = "again: connection"
            self.counts[outcome] += 1
            if not outcome.startswith("again"):
                return
            await asyncio.sleep(0.1)
        self.counts["lost"] += 1

    async def send_broken(self) -> str:
        reply = await self.http.post(self.url, content=self.random.choice(BROKEN))
        good = reply.status_code in (400, 404) and "error" in reply.json()
        return "refused" if good else f"wrong: status {reply.status_code} for a broken body"

    async def ask(self, kind: str, sentence: str | None, text: str) -> str:
        body = {
            "model": self.base if sentence is None else f"t2l:{sentence}",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": TOKENS,
            "stream": kind in ("streamed", "slow", "vanishing"),
        }
        async with self.http.stream("POST", self.url, json=body) as reply:
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
        wanted = self.wanted[sentence, text]
        if content == wanted:
            return "right"
        owners = [str(key) for key, value in self.wanted.items() if value == content]
        facts = {"sentence": sentence, "input": text, "got": content, "wanted": wanted}
        self.wrong.append(facts | {"answer of": owners[:3]})
        return "wrong: answer"

    async def cause_faults(self) -> None:
        """A disk that takes no more from 30 to 45 % of the requests, a kill at 60 %."""
        total = self.requests
        plan: list[tuple[float, Callable[[], None]]] = [
            (0.3 * total, lambda: self.limit_files(512)),
            (0.45 * total, lambda: self.limit_files(UNLIMITED)),
            (0.6 * total, self.restart),
        ]
        beginning = time.monotonic()
        while self.done < total:
            if plan and (self.done >= plan[0][0] or (len(plan) == 2 and self.stuck())):
                plan.pop(0)[1]()
            used = psutil.Process(self.server.process.pid).memory_info().rss
            self.memory[-1].append(used / 2**20)
            if time.monotonic() - beginning > 30:
                beginning = time.monotonic()
                print(f"{self.done} of {total}: {dict(self.counts)}", flush=True)
            await asyncio.sleep(0.5)

    def limit_files(self, size: int) -> None:
        """Let the server write files of no more than so many bytes."""
        resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))

    def stuck(self) -> bool:
        """Whether the clients wait for the disk alone."""
        return bool(self.counts["again: status 507"] > self.requests // 10)

    def restart(self) -> None:
        self.server.kill()
        self.server.start()
        self.memory.append([])

    def memory_mib(self) -> list[dict[str, int]]:
        """Memory of each process of the server, in MiB."""
        return [
            {
                "after_a_tenth": round(samples[len(samples) // 10]),
                "in_the_middle": round(samples[len(samples) // 2]),
                "peak": round(max(samples)),
                "end": round(samples[-1]),
            }
            for samples in self.memory
        ]


def prepare(folder: Path) -> Wanted:
    """Write the tiny models; gives the answer of every sentence to every input."""
    models = import_from_tests("tiny_models")
    base = models.save_base(folder / "base")
    t2l = TextToLora.from_pretrained(models.save_tiny_hypernet(folder / "hypernet", base))
    model, tokenizer = t2l.load_base(str(base))
    texts = [f"Sentence {n}: {random.Random(n).choice('abcdefgh') * 3}" for n in range(SENTENCES)]
    adapters: dict[str, Any] = {"weights": t2l.generate(texts).weights, "rows": range(len(texts))}
    wanted: Wanted = {}
    for text in INPUTS:
        inputs = [text] * len(texts)
        answers = answer(model, tokenizer, inputs, max_new_tokens=TOKENS, **adapters)
        wanted |= {(sentence, text): one for sentence, one in zip(texts, answers, strict=True)}
        wanted[None, text] = answer(model, tokenizer, [text], max_new_tokens=TOKENS)[0]
    return wanted


def main() -> None:
    parser = parse(__doc__, "serving/soak", threads=None)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wanted = prepare(folder)
        base, store = str(folder / "base"), folder / "store"
        limits = ("--max-adapters", STORED, "--max-queue", 64)
        server = Server(folder / "hypernet", "--base", base, "--store", store, *limits)
        soak = Soak(server, wanted, base, options.requests)
        try:
            asyncio.run(soak.run())
        finally:
            code = server.stop()
        stored = len(list((store / "adapters").glob("t2l-*")))
    outcomes = dict(sorted(soak.counts.items()))
    problems = {key: n for key, n in outcomes.items() if key.startswith(("wrong", "lost"))}
    result = {
        "requests": options.requests,
        "distinct_answers": len(set(wanted.values())),
        "outcomes": outcomes,
        "problems": problems,
        "examples_of_wrong_answers": soak.wrong[:5],
        "adapters_stored_at_the_end": stored,
        "exit_code_after_sigterm": code,
        "memory_mib": soak.memory_mib(),
    }
    recorder.write(options.out, result)
    print(f"{json.dumps(outcomes, indent=2)}\nproblems: {problems}; memory {result['memory_mib']}")


if __name__ == "__main__":
    main()
