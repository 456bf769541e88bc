"""A language model behind an OpenAI-compatible endpoint that answers in JSON, and what it used."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from text_to_lora.errors import BackendError, ConfigError, shorten

Messages = Sequence[dict[str, str]]
_ATTEMPTS: Final = 3  # answers that are not the JSON that was asked for, before a task fails
_CHARS_PER_TOKEN: Final = 4  # of English text, for estimates


class UnreachableError(BackendError):
    """The endpoint refuses every request, so that there is no sense in another."""


@dataclass
class Usage:
    """Requests and tokens so far.

    is_estimate: whether some answers came without a count, so that characters were counted instead
    """

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    is_estimate: bool = False

    def explain(self, price: tuple[float, float] | None) -> str:
        """Requests, tokens and, with a price in US dollars for a million tokens, the cost."""
        text = f"{self.requests:,} requests, {'about ' if self.is_estimate else ''}"
        text += f"{self.prompt_tokens:,} tokens in, {self.answer_tokens:,} out"
        if price is not None:
            dollars = (self.prompt_tokens * price[0] + self.answer_tokens * price[1]) / 1e6
            text += f", {dollars:,.4f} US dollars"
        return text


def estimate_tokens(*texts: str) -> int:
    """Tokens of English texts, by their characters."""
    return -(-sum(map(len, texts)) // _CHARS_PER_TOKEN)


class Endpoint:
    """Asks one model; several threads may ask at once.

    model: its name at the endpoint
    api_base: address of the endpoint; OPENAI_BASE_URL or OpenAI's own by default
    timeout: of one request, in seconds
    retries: of a request that is refused for now (429, 5xx) or gets no answer, with a growing pause

    The key is read from the environment variable OPENAI_API_KEY; a server with an address of its own
    may need none.

    Raises ConfigError when the package openai is not installed or there is no key.
    """

    def __init__(
        self, model: str, *, api_base: str | None = None, timeout: float = 60, retries: int = 6
    ) -> None:
        try:
            import openai
        except ModuleNotFoundError:
            raise ConfigError(
                "an endpoint needs the package openai; pip install 'text-to-lora[describe]', or use --offline"
            ) from None
        key = os.environ.get("OPENAI_API_KEY")
        if not key and not (api_base or os.environ.get("OPENAI_BASE_URL")):
            raise ConfigError(
                "no key in the environment variable OPENAI_API_KEY; set it, name a server with "
                "--api-base, or use --offline"
            )
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=api_base, timeout=timeout, max_retries=retries
        )
        self._model = model
        self._is_structured = True
        self._lock = threading.Lock()
        self.usage = Usage()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def ask(self, messages: Messages, schema: dict[str, Any]) -> dict[str, Any]:
        """Give the answer as a JSON object with the fields of a JSON schema.

        Raises BackendError when no such answer comes, UnreachableError when none ever will.
        """
        answer = ""
        for _ in range(_ATTEMPTS):
            answer = self._complete(messages, schema)
            payload = _parse(answer)
            if payload is not None and all(name in payload for name in schema["required"]):
                return payload
        raise BackendError(
            f"{_ATTEMPTS} answers of {self._model!r} are not the JSON that was asked for, the last "
            f"{shorten(answer)}",
            output=answer,
        )

    def _complete(self, messages: Messages, schema: dict[str, Any]) -> str:
        import openai

        options: dict[str, Any] = {}
        if self._is_structured:
            named = {"name": "answer", "schema": schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": named}
        create: Any = self._client.chat.completions.create
        try:
            done = create(model=self._model, messages=list(messages), **options)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not options:
                raise BackendError(f"the endpoint refuses: {_reason(error)}") from error
            self._is_structured = (
                False  # many servers know no schemas; the prompt asks for JSON too
            )
            return self._complete(messages, schema)
        except openai.APITimeoutError as error:
            raise BackendError("no answer in time; raise --timeout") from error
        except (openai.RateLimitError, openai.InternalServerError) as error:
            raise BackendError(f"the endpoint refuses: {_reason(error)}") from error
        except openai.OpenAIError as error:  # a wrong key, name or address
            raise UnreachableError(
                f"the endpoint at {str(self._client.base_url)!r} cannot be used: {_reason(error)}; "
                "check --api-base, --model and OPENAI_API_KEY"
            ) from error
        except ValueError as error:  # an answer that is no JSON at all
            raise BackendError(f"the endpoint answers what is no completion: {error}") from error
        return self._read(messages, done)

    def _read(self, messages: Messages, done: Any) -> str:
        """The text of a completion; counts its tokens."""
        choices = getattr(done, "choices", None) or []
        text = str(getattr(choices[0].message, "content", None) or "") if choices else ""
        counts = getattr(done, "usage", None)
        with self._lock:
            self.usage.requests += 1
            if counts is None:
                self.usage.is_estimate = True
                self.usage.prompt_tokens += estimate_tokens(*(m["content"] for m in messages))
                self.usage.answer_tokens += estimate_tokens(text)
            else:
                self.usage.prompt_tokens += int(counts.prompt_tokens or 0)
                self.usage.answer_tokens += int(counts.completion_tokens or 0)
        return text


def _parse(answer: str) -> dict[str, Any] | None:
    """The JSON object in an answer, which may stand in a block of code; None where there is none."""
    match = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        payload = json.loads(match[0]) if match else None
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def _reason(error: Exception) -> str:
    return shorten(" ".join(str(error).split())).strip("'\"")
