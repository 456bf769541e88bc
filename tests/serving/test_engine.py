"""The engine answers as `answer` does, whatever runs beside; a stop, a cancel, an error free a row."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.generate import TextToLora
from text_to_lora.inference.answers import answer as answer_directly
from text_to_lora.inference.generate import find_stop_tokens
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.serving.answer import Answer, Piece, Sampling
from text_to_lora.serving.engine import ClosedError, Engine
from text_to_lora.tasks.prompts import PromptFormat

SENTENCES = ["Answer in capitals", "Say yes or no", "Name the town", "Reply in French", "Be brief"]
INPUTS = ["The soup is cold", "hello", "a b c", "One longer line of words, to pad", "x"]


class Notes:
    """What the engine tells, and a way to hold it up."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.fetched: list[Sequence[Any]] = []
        self.gate = threading.Event()
        self.gate.set()

    def batch(self, rows: int) -> None:
        self.gate.wait(10)
        self.batches.append(rows)

    def waiting(self, answers: int) -> None:
        pass


class Kit:
    """An engine on the tiny base with its helpers."""

    def __init__(self, t2l: TextToLora, **options: Any) -> None:
        self.model, self.tokenizer = t2l.base
        self.frame = PromptFormat.for_tokenizer(self.tokenizer)
        self.weights = dict(zip(SENTENCES, t2l.generate(SENTENCES).weights.unbind(), strict=True))
        self.notes = Notes()
        stops = find_stop_tokens(self.model, self.tokenizer, self.frame)
        self.engine = Engine(self.model, t2l.spec, stops, self.fetch, self.notes, **options)

    def fetch(self, keys: Sequence[Any]) -> list[LoraWeights | T2LError]:
        self.notes.fetched.append(keys)
        if "boom" in keys:
            raise RuntimeError("a bug")
        return [self.weights.get(key) or ConfigError(f"no {key}") for key in keys]

    def ask(self, text: str, sentence: str | None, **options: Any) -> queue.Queue[Piece]:
        pieces: queue.Queue[Piece] = queue.Queue()
        self.last = Answer(
            self.frame.encode(self.tokenizer, text).prompt_ids,
            Sampling(**{"max_tokens": 16} | options.pop("sampling", {})),
            lambda ids: self.frame.read_answer(self.tokenizer, ids),
            pieces.put,
            **options,
        )
        self.engine.submit([self.last], sentence)
        return pieces

    def direct(self, text: str, sentence: str | None, max_new_tokens: int = 16) -> str:
        weights = None if sentence is None else self.weights[sentence]
        return answer_directly(
            self.model, self.tokenizer, [text], weights=weights, max_new_tokens=max_new_tokens
        )[0]


def whole(pieces: queue.Queue[Piece]) -> tuple[str, list[Piece]]:
    """The text of an answer, and its pieces."""
    seen = [pieces.get(timeout=20)]
    while seen[-1].finish is None and seen[-1].error is None:
        seen.append(pieces.get(timeout=20))
    return "".join(piece.text for piece in seen), seen


@pytest.fixture
def kit(t2l: TextToLora) -> Iterator[Kit]:
    kit = Kit(t2l, max_wait=0.05)
    yield kit
    kit.notes.gate.set()
    kit.engine.close(5)
    assert not kit.engine.is_alive


def test_mixed_requests_answer_as_each_alone_and_share_batches(kit: Kit) -> None:
    pairs = [(text, sentence) for text in INPUTS for sentence in [*SENTENCES, None]]
    asked = [
        kit.ask(text, sentence, streams=place % 2 == 0)
        for place, (text, sentence) in enumerate(pairs)
    ]
    answers = [whole(pieces)[0] for pieces in asked]
    wanted = kit.engine.call(lambda: [kit.direct(*pair) for pair in pairs]).result(60)
    assert answers == wanted
    assert len(set(answers)) > 10
    assert max(kit.notes.batches) > 16
    assert len(kit.notes.fetched) < 8


def test_a_request_joins_a_batch_that_runs(kit: Kit) -> None:
    first = kit.ask("hello", SENTENCES[0], sampling={"max_tokens": 120})
    while not kit.notes.batches:
        time.sleep(0.001)
    second = kit.ask("x", SENTENCES[1], sampling={"max_tokens": 4})
    assert whole(second)[0] == kit_direct(kit, "x", 1, 4)
    whole(first)
    assert set(kit.notes.batches) == {1, 2}


def kit_direct(kit: Kit, text: str, sentence: int, tokens: int) -> str:
    kit.engine.call(lambda: None).result(10)
    return kit.engine.call(lambda: kit.direct(text, SENTENCES[sentence], tokens)).result(20)


def test_streamed_pieces_are_whole_characters_and_join_to_the_answer(kit: Kit) -> None:
    ids = kit.tokenizer("né 🙂 ÿ", add_special_tokens=False).input_ids
    pieces: list[Piece] = []
    answer = Answer(
        [1], Sampling(99), lambda ids: str(kit.tokenizer.decode(ids)), pieces.append, streams=True
    )
    for token in [*ids, 1]:
        answer.take(token, torch.zeros(259), frozenset([1]))
    assert [piece.text for piece in pieces] == ["n", "é", " 🙂", " ÿ", ""]
    assert pieces[-1].finish == "stop" and pieces[-1].num_tokens == len(ids)


def test_a_stop_text_ends_an_answer_and_no_start_of_it_is_shown(kit: Kit) -> None:
    ids = kit.tokenizer("one, two; three", add_special_tokens=False).input_ids
    pieces: list[Piece] = []
    read = lambda ids: str(kit.tokenizer.decode(ids))  # noqa: E731
    answer = Answer([1], Sampling(99, stop=("; t", "zzz")), read, pieces.append, streams=True)
    goes_on = [answer.take(token, torch.zeros(259), frozenset([1])) for token in ids[:12]]
    assert goes_on[:10] == [True] * 10 and not goes_on[10]
    assert "".join(piece.text for piece in pieces) == "one, two" and pieces[-1].finish == "stop"
    assert all(";" not in piece.text for piece in pieces)


def test_the_mark_that_closes_a_thought_is_not_shown() -> None:
    pieces: list[Piece] = []
    words = ["</thi", "nk>", "\n", "yes"]
    read = lambda ids: "".join(words[i] for i in ids).replace("</think>", "").strip()  # noqa: E731
    answer = Answer([1], Sampling(9), read, pieces.append, hidden="</think>", streams=True)
    for token in range(4):
        answer.take(token, torch.zeros(9), frozenset([8]))
    assert [piece.text for piece in pieces] == ["yes"]


def test_draws_follow_the_seed_and_stay_within_top_p() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, -9.0])

    def draw(seed: int, top_p: float, temperature: float = 1.0) -> list[int]:
        sampling = Sampling(9, temperature=temperature, top_p=top_p, seed=seed)
        answer = Answer([1], sampling, str, lambda piece: None)
        return [answer.choose(logits) for _ in range(200)]

    assert draw(1, 1.0) == draw(1, 1.0) != draw(2, 1.0)
    assert set(draw(1, 1.0)) == {0, 1, 2}
    assert set(draw(1, 0.7)) == {0, 1}  # 0.67, 0.24, 0.09
    assert set(draw(1, 0.5)) == {0}
    assert set(draw(1, 1.0, temperature=0.05)) == {0}
    share = draw(3, 1.0).count(0) / 200
    assert share == pytest.approx(0.665, abs=0.1)  # three standard deviations


def test_log_probabilities_are_those_of_the_softmax() -> None:
    pieces: list[Piece] = []
    answer = Answer([1], Sampling(1, num_logprobs=2), str, pieces.append)
    answer.take(2, torch.tensor([1.0, 3.0, 2.0]), frozenset())
    (logprob,) = pieces[0].logprobs
    assert logprob.token == 2 and [token for token, _ in logprob.top] == [1, 2]
    assert logprob.logprob == pytest.approx(-1.4076, abs=1e-3)


def test_one_adapter_that_fails_fails_its_request_alone(kit: Kit) -> None:
    bad, good = kit.ask("x", "unknown"), kit.ask("x", SENTENCES[0])
    assert str(whole(bad)[1][-1].error) == "no unknown"
    assert whole(good)[0] == kit_direct(kit, "x", 0, 16)


def test_a_bug_in_a_round_fails_what_runs_and_the_engine_goes_on(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    (piece,) = whole(kit.ask("x", "boom"))[1]
    assert "RuntimeError: a bug" in str(piece.error)
    kit.ask("x", None)
    step, kit.engine._decoder.step = kit.engine._decoder.step, None
    assert "the model failed" in str(whole(kit.ask("x", None))[1][-1].error)
    kit.engine._decoder.step = step
    assert whole(kit.ask("x", SENTENCES[0]))[0] == kit_direct(kit, "x", 0, 16)
    assert "the engine failed" in caplog.text and "could not be made" in caplog.text


def test_numbers_out_of_range_are_told(kit: Kit) -> None:
    kit.weights["wild"] = kit.weights[SENTENCES[0]].scale(float("inf"))
    (piece,) = whole(kit.ask("x", "wild"))[1]
    assert "out of range; lower strength" in str(piece.error)


def test_closing_finishes_what_was_submitted_and_takes_nothing_new(t2l: TextToLora) -> None:
    kit = Kit(t2l, max_batch=2)
    asked = [kit.ask(text, SENTENCES[0]) for text in INPUTS]
    kit.engine.close(20)
    assert [whole(pieces)[0] for pieces in asked] == [
        kit.direct(text, SENTENCES[0]) for text in INPUTS
    ]
    for attempt in (lambda: kit.ask("x", None), lambda: kit.engine.call(lambda: None)):
        with pytest.raises(ClosedError, match="shutting down"):
            attempt()


def test_what_does_not_finish_in_time_ends_with_an_error(t2l: TextToLora) -> None:
    kit = Kit(t2l, max_batch=1)
    kit.notes.gate.clear()
    asked = [kit.ask("a", None), kit.ask("b", None)]
    threading.Timer(0.3, kit.notes.gate.set).start()
    kit.engine.close(0.1)
    time.sleep(0.4)
    for pieces in asked:
        assert "shut down before" in str(whole(pieces)[1][-1].error)
