"""Clients with a sentence each: one batch of unlike adapters against one adapter after another.

    python -m benchmarks.speed.serve --clients 1 8 32 --out benchmarks/results/serving/speed.json

The server runs in this process with one thread for the model and is asked over HTTP, by streams. Every
client has a sentence of its own and asks one input after another, each as soon as the answer before it is
there. The other side is PEFT with all adapters loaded: set_adapter, then generate, one request after
another, in rounds of one input for every sentence; a request waits for those of its round before it. Since
other programs may run beside, throughput is given for the clock's seconds and for the seconds of this
process's own processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import torch
import uvicorn

from benchmarks.lib import Recorder, parse
from text_to_lora.generate import TextToLora
from text_to_lora.inference.generate import find_stop_tokens
from text_to_lora.serving.api import make_app
from text_to_lora.serving.guard import listen
from text_to_lora.serving.service import Service
from text_to_lora.serving.store import AdapterStore
from text_to_lora.tasks.prompts import PromptFormat

WORDS = ("colour", "town", "animal", "number", "month", "fruit", "river", "tool")
MANNERS = ("in capitals", "in one word", "in French", "as a question")
SUBJECTS = ("The soup", "My train", "A grey dog", "Our neighbour")
EVENTS = ("was late today", "went to the coast", "cost nine euros")
PLACES = ("and nobody in town knew why", "before the rain began")
INPUTS = tuple(f"{' '.join(parts)}." for parts in product(SUBJECTS, EVENTS, PLACES))


def sentences(count: int) -> list[str]:
    """As many unlike sentences as there are clients, at most 32."""
    return [f"Name a {word} {manner}" for manner in MANNERS for word in WORDS][:count]


Answer = tuple[float, str]
"""Seconds to the first text, and the text."""


def ask_together(
    url: str, texts: list[str], inputs: tuple[str, ...], tokens: int
) -> list[list[Answer]]:
    """Answers to every input for every sentence, from as many clients at once as sentences."""

    async def ask(client: httpx.AsyncClient, text: str, question: str) -> Answer:
        turns = [{"role": "user", "content": question}]
        body = {"model": f"t2l:{text}", "messages": turns, "max_tokens": tokens, "stream": True}
        started, first, parts = time.perf_counter(), 0.0, []
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    parts.append(json.loads(line[6:])["choices"][0]["delta"].get("content", ""))
                    first = first or time.perf_counter() - started
        return first, "".join(parts)

    async def ask_all(client: httpx.AsyncClient, text: str) -> list[Answer]:
        return [await ask(client, text, question) for question in inputs]

    async def run() -> list[list[Answer]]:
        async with httpx.AsyncClient(timeout=600) as client:
            return await asyncio.gather(*(ask_all(client, text) for text in texts))

    return asyncio.run(run())


class FirstToken:
    """A streamer of transformers that notes when the first token is there."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = 0.0

    def put(self, value: torch.Tensor) -> None:
        self.calls += 1  # the first call has the prompt
        if self.calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        pass


def ask_in_turn(
    peft_model: Any,
    names: dict[str, str],
    t2l: TextToLora,
    texts: list[str],
    inputs: tuple[str, ...],
    tokens: int,
) -> list[list[Answer]]:
    """The same by PEFT, one request after another."""
    model, tokenizer = t2l.base
    frame = PromptFormat.for_tokenizer(tokenizer)
    stops = find_stop_tokens(model, tokenizer, frame)
    answers: list[list[Answer]] = [[] for _ in texts]
    for question in inputs:
        ids = torch.tensor([frame.encode(tokenizer, question).prompt_ids])
        started = time.perf_counter()
        for text, of_text in zip(texts, answers, strict=True):
            peft_model.set_adapter(names[text])
            streamer = FirstToken()
            with torch.inference_mode():
                output = peft_model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=tokens,
                    do_sample=False,
                    eos_token_id=stops,
                    pad_token_id=stops[0],
                    streamer=streamer,
                )
            new = output[0, ids.shape[1] :].tolist()
            of_text.append((streamer.at - started, frame.read_answer(tokenizer, new)))
    return answers


def timed(ask: Callable[[], list[list[Answer]]]) -> tuple[list[list[Answer]], dict[str, float]]:
    """Answers, and how fast they came by the clock and by the processor time of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    answers = ask()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    firsts = [first for of_text in answers for first, _ in of_text]
    return answers, {
        "requests_per_s": round(len(firsts) / wall, 3),
        "requests_per_cpu_s": round(len(firsts) / cpu, 3),
        "first_token_s_median": round(median(firsts), 3),
        "first_token_s_last": round(max(firsts), 3),
    }


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    from peft import PeftModel

    t2l = TextToLora.from_pretrained(options.model)
    t2l.attach_base(*t2l.base)
    service = Service(t2l, AdapterStore(folder / "store"))
    texts = sentences(max(options.clients))
    refs = [service.pool.sentence(text) for text in texts]
    service.engine.call(lambda: service.pool.fetch(refs)).result()
    other = TextToLora.from_pretrained(options.model)  # PEFT changes the modules of its base
    names = {text: ref.id for text, ref in zip(texts, refs, strict=True)}
    first, *rest = texts
    path = service.store.path
    peft_model = PeftModel.from_pretrained(other.base[0], path(names[first]), names[first])
    for text in rest:
        peft_model.load_adapter(path(names[text]), names[text])
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(make_app(service), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    cells = []
    try:
        warm_up = ("Hello",)
        ask_together(url, texts[-1:], warm_up, 2)
        ask_in_turn(peft_model, names, other, texts[-1:], warm_up, 2)
        for count in options.clients:
            given = (texts[:count], INPUTS, options.tokens)
            together, ours = timed(partial(ask_together, url, *given))
            in_turn, theirs = timed(partial(ask_in_turn, peft_model, names, other, *given))
            cell: dict[str, Any] = {"clients": count, "requests": count * len(INPUTS)}
            cell["equal_answers"] = sum(
                a[1] == b[1]
                for served, direct in zip(together, in_turn, strict=True)
                for a, b in zip(served, direct, strict=True)
            )
            cell |= {"served": ours, "in_turn": theirs}
            for name in ("requests_per_s", "requests_per_cpu_s"):
                cell[f"ratio_of_{name}"] = round(ours[name] / theirs[name], 2)
            cells.append(cell)
            print(json.dumps(cell), flush=True)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
    return cells


def main() -> None:
    parser = parse(__doc__, "serving/speed", threads=None)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of an answer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recorder = Recorder(threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        cells = measure(options, Path(temporary))
    recorder.write(options.out, {"tokens": options.tokens, "cells": cells})


if __name__ == "__main__":
    main()
