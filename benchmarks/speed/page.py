"""From a click on the web page to its answers: the requests of `t2l ui`, timed, on a server of its own.

    python -m benchmarks.speed.page --out benchmarks/results/serving/page.json

A click asks for the adapter of the sentence, then for the answers of the base and under the adapter to
every input, all at once, of at most 64 tokens each; so does this script, from the example of the page. The
first click is the first request that the server gets. Times are from the click, in seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.lib import RESULTS, command, machine
from text_to_lora.files import write_json
from text_to_lora.serving.guard import listen

INPUTS = ("The soup is cold today.", "Where is the station?")
CLICKS = {
    "first": "Answer in capitals.",
    "the same sentence": "Answer in capitals.",
    "another sentence": "Answer in one word.",
}
MOST_TOKENS = 64  # as on the page


@contextmanager
def server(model: str, folder: Path) -> Iterator[tuple[str, float]]:
    """The address of a server in a process of its own, and the seconds until it answers."""
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    started = time.perf_counter()
    words = ["serve", model, "--port", str(port), "--store", str(folder)]
    process = subprocess.Popen([sys.executable, "-m", "text_to_lora.cli", *words])
    try:
        url = f"http://127.0.0.1:{port}"
        while not _is_ready(url):
            if process.poll() is not None:
                raise RuntimeError(f"t2l serve ended with {process.returncode}")
            time.sleep(0.05)
        yield url, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


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
    parser = argparse.ArgumentParser(description="Time the web page from click to answer.")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--out", type=Path, default=RESULTS / "serving" / "page.json")
    options = parser.parse_args()
    before = machine()
    with (
        tempfile.TemporaryDirectory() as temporary,
        server(options.model, Path(temporary) / "store") as (url, ready),
        httpx.Client(base_url=url, timeout=600) as client,
    ):
        clicks = {name: click(client, sentence) for name, sentence in CLICKS.items()}
    result = {
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": before,
        "server_ready_s": round(ready, 2),
        "clicks": clicks,
    }
    write_json(options.out, result)
    print(result)


if __name__ == "__main__":
    main()
