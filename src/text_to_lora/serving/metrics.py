"""What /metrics shows, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts of one server.

    adapters: gives how many adapters are stored
    """

    def __init__(self, adapters: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "t2l_requests", "Requests.", ("route", "status"), registry=registry
        )
        self._latency = Histogram(
            "t2l_request_seconds",
            "Time of a request until its last byte.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "t2l_first_token_seconds",
            "Time from a request to the first piece of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "t2l_batch_rows", "Rows of a step.", buckets=_ROWS, registry=registry
        )
        self._waiting = Gauge("t2l_waiting_answers", "Answers that wait.", registry=registry)
        self._tokens = Counter("t2l_tokens", "Tokens.", ("kind",), registry=registry)
        self._origins = Counter(
            "t2l_adapter_uses",
            "Uses of an adapter, by where it came from: memory, store or generated.",
            ("origin",),
            registry=registry,
        )
        stored = Gauge("t2l_adapters", "Adapters that are stored.", registry=registry)
        stored.set_function(adapters)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Count the wait for a first piece."""
        self._first.observe(seconds)

    def batch(self, rows: int) -> None:
        """Count a step of the model."""
        self._batch.observe(rows)

    def waiting(self, answers: int) -> None:
        """Note how many answers wait."""
        self._waiting.set(answers)

    def tokens(self, prompt: int, completion: int) -> None:
        """Count the tokens of a request."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)

    def adapter(self, origin: str) -> None:
        """Count the use of an adapter."""
        self._origins.labels(origin).inc()

    def render(self) -> bytes:
        """All counts as text."""
        return generate_latest(self._registry)
