"""From a click on the web page to its answers: the requests of `t2l ui`, timed, on a server of its own.

    python -m benchmarks.speed.page --out benchmarks/results/serving/page.json

A click asks for the adapter of the sentence, then for the answers of the base and under the adapter to
every input, all at once, of at most 64 tokens each; so does this script, from the example of the page. The
first click is the first request that the server gets. Times are from the click, in seconds.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx

from benchmarks.lib import Recorder, parse
from benchmarks.served import Server

INPUTS = ("The soup is cold today.", "Where is the station?")
CLICKS = {
    "first": "Answer in capitals.",
    "the same sentence": "Answer in capitals.",
    "another sentence": "Answer in one word.",
}
MOST_TOKENS = 64  # as on the page


def click(client: httpx.Client, sentence: str) -> dict[str, float]:
    """The seconds of one click until its adapter, its first answer and all answers are there."""
    started = time.perf_counter()
    base = _read(client.get("/v1/models"))["data"][0]["id"]
    adapter = _read(client.post("/v1/adapters", json={"description": sentence}))["id"]
    seconds = {"adapter_s": time.perf_counter() - started}

    def ask(model: str, text: str) -> None:
        turns = [{"role": "user", "content": text}]
        body = {"model": model, "messages": turns, "max_tokens": MOST_TOKENS}
        _read(client.post("/v1/chat/completions", json=body))

    with ThreadPoolExecutor(2 * len(INPUTS)) as threads:
        asked = [threads.submit(ask, name, text) for name in (base, adapter) for text in INPUTS]
        for answer in as_completed(asked):
            answer.result()
            seconds.setdefault("first_answer_s", time.perf_counter() - started)
    seconds["all_answers_s"] = time.perf_counter() - started
    return {name: round(value, 3) for name, value in seconds.items()}


def _read(reply: httpx.Response) -> Any:
    return reply.raise_for_status().json()


def main() -> None:
    parser = parse(__doc__, "serving/page", threads=None)
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        server = Server(options.model, "--store", Path(temporary) / "store")
        try:
            with httpx.Client(base_url=server.url, timeout=600) as client:
                client.get("/health").raise_for_status()
                ready = time.perf_counter() - started
                clicks = {name: click(client, sentence) for name, sentence in CLICKS.items()}
        finally:
            server.stop()
    result = {"server_ready_s": round(ready, 2), "clicks": clicks}
    recorder.write(options.out, result)
    print(result)


if __name__ == "__main__":
    main()
