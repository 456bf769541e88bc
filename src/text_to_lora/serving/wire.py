"""Bodies of requests and answers, and errors, as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from text_to_lora.errors import BackendError, T2LError, shorten
from text_to_lora.files import JsonError, parse_json
from text_to_lora.serving.adapters import UnknownModelError
from text_to_lora.serving.answer import Piece, TokenLogprob
from text_to_lora.serving.engine import ClosedError, QueueFullError
from text_to_lora.serving.store import AliasError, StoreError

_Model = TypeVar("_Model", bound=BaseModel)

DEFAULT_TOKENS: Final = 256
"""Most tokens of a chat's answer when the request does not say."""

_IGNORED: Final = ("user", "metadata", "store", "service_tier", "parallel_tool_calls")
# Fields that are known but not supported, with the values that ask for nothing.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty"), (0,)),
    **dict.fromkeys(("tools", "functions"), ([],)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    **dict.fromkeys(("audio", "prediction", "web_search_options", "verbosity"), ()),
    "reasoning_effort": ("none",),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}


class RequestError(T2LError, ValueError):
    """A request that cannot be answered, as a client is told.

    status: of HTTP; kind, code, param: `type`, `code` and `param` of the error's body
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: T2LError) -> RequestError:
        """The same error in the words for a client."""
        message = str(error)
        match error:
            case RequestError():
                return error
            case UnknownModelError():
                return cls(message, status=404, code="model_not_found", param="model")
            case QueueFullError():
                kind, code = "rate_limit_error", "queue_full"
                return cls(message, status=429, kind=kind, code=code, retry_after=1)
            case ClosedError():
                return cls(message, status=503, kind="server_error", retry_after=5)
            case StoreError():
                return cls(message, status=507, kind="server_error", code="store_full")
            case AliasError():
                return cls(message, status=409, code="alias_taken", param="alias")
            case BackendError():
                return cls(message, status=500, kind="server_error")
        return cls(message)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer has because of the error."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        facts = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": facts}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Body):
    """A part of a turn's content; other kinds than text are refused."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(_Body):
    """What a stream tells beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class AnswerBody(_Body):
    """What requests for chats and for completions have in common.

    strength: factor of the adapter's ΔW; min_similarity: lowest cosine of the sentence with the
        nearest training description
    """

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=16)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] = Field([], max_length=4)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    strength: float = 1.0
    min_similarity: float | None = Field(None, ge=-1, le=1)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(filter(None, self.stop))


class ChatBody(AnswerBody):
    """A request to /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)


class CompletionBody(AnswerBody):
    """A request to /v1/completions; its answers have 16 tokens when it does not say."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[int(token) for token in self.prompt if isinstance(token, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]


class Row(_Body):
    """An input with the answer that is wanted."""

    input: str
    output: str


class AdapterBody(_Body):
    """A request to make adapters.

    examples: rows that the adapter is trained on; seconds, steps: limits of that training
    """

    description: str | None = None
    descriptions: list[str] | None = Field(None, min_length=1, max_length=64)
    alias: str | None = None
    strength: float = 1.0
    examples: list[Row] | None = None
    seconds: float = Field(60.0, gt=0, le=3600)
    steps: int | None = Field(None, ge=1)


def parse(content: bytes, kind: type[_Model]) -> _Model:
    """Read the body of a request; a field that is null is as good as left out.

    Raises RequestError that names the field.
    """
    try:
        payload = parse_json(content)
    except JsonError as error:
        raise RequestError(f"the body {error}; send a JSON object") from None
    if not isinstance(payload, dict):
        raise RequestError(f"the body is a {type(payload).__name__}; send a JSON object")
    given = {k: v for k, v in payload.items() if v is not None and k not in _IGNORED}
    for name in [name for name in given if name not in kind.model_fields]:
        if name not in _NEUTRAL or not issubclass(kind, AnswerBody):
            message = f"Unrecognized request argument supplied: {name[:100]}"
            raise RequestError(message, param=name[:100], code="unknown_parameter")
        if given.pop(name) not in _NEUTRAL[name]:
            message = f"Unsupported parameter: {name!r} is not supported with this model."
            raise RequestError(message, param=name, code="unsupported_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        got = "" if first["type"] == "missing" else f"; got {shorten(first['input'])}"
        raise RequestError(
            f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}{got}",
            param=str(first["loc"][0]) if first["loc"] else None,
        ) from None


class Replies:
    """Bodies of the answers to one request: whole, and piece by piece.

    chat: whether it is one of /v1/chat/completions; decode: the text of a token
    """

    def __init__(self, chat: bool, reply_id: str, created: int, model: str, decode: Any) -> None:
        self._chat, self._decode = chat, decode
        kind = "chat.completion" if chat else "text_completion"
        self._facts = {"id": reply_id, "object": kind, "created": created, "model": model}
        self._chunk_facts = self._facts | {"object": f"{kind}.chunk" if chat else kind}

    def whole(self, parts: Sequence[Sequence[Piece]], cost: Mapping[str, int]) -> dict[str, Any]:
        """The body that holds all answers; parts: the pieces of each."""
        choices = []
        for index, pieces in enumerate(parts):
            text = "".join(piece.text for piece in pieces)
            logprobs = [entry for piece in pieces for entry in piece.logprobs]
            content_fields = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append(
                {
                    "index": index,
                    **(content_fields if self._chat else {"text": text}),
                    "logprobs": self._logprobs(logprobs),
                    "finish_reason": pieces[-1].finish,
                }
            )
        return {**self._facts, "choices": choices, "usage": cost}

    def chunks(self, index: int, piece: Piece, *, first: bool) -> list[dict[str, Any]]:
        """The chunks of one piece; before the first of a chat's answer comes who speaks."""
        content = {"content": piece.text} if piece.text else {}
        fields: dict[str, Any] = {"delta": content} if self._chat else {"text": piece.text}
        end = {"logprobs": self._logprobs(piece.logprobs), "finish_reason": piece.finish}
        choices: list[dict[str, Any]] = [{"index": index, **fields, **end}]
        if first and self._chat:
            speaker = {"delta": {"role": "assistant", "content": ""}}
            choices.insert(0, {"index": index, **speaker, "logprobs": None, "finish_reason": None})
        return [{**self._chunk_facts, "choices": [choice]} for choice in choices]

    def cost(self, cost: Mapping[str, int]) -> dict[str, Any]:
        """The last chunk of a stream that was asked for its cost."""
        return {**self._chunk_facts, "choices": [], "usage": cost}

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not entries:
            return None
        if self._chat:
            content = [
                self._token(entry.token, entry.logprob)
                | {"top_logprobs": [self._token(*pair) for pair in entry.top]}
                for entry in entries
            ]
            return {"content": content, "refusal": None}
        texts = [self._decode([entry.token]) for entry in entries]
        return {
            "tokens": texts,
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [
                {self._decode([token]): value for token, value in entry.top} for entry in entries
            ],
            "text_offset": [sum(map(len, texts[:place])) for place in range(len(texts))],
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
