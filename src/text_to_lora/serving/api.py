"""The server: OpenAI's routes, those of adapters, health and metrics, over HTTP."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse

import text_to_lora
from text_to_lora.errors import T2LError
from text_to_lora.serving.answer import Answer, Piece
from text_to_lora.serving.guard import Guard, too_long
from text_to_lora.serving.service import Service
from text_to_lora.serving.wire import (
    AdapterBody,
    ChatBody,
    CompletionBody,
    Replies,
    RequestError,
    parse,
)

_CLIENT_GONE: Final = 499  # what other servers log for a client that went away


def make_app(
    service: Service,
    *,
    api_key: str | None = None,
    cors_origins: Sequence[str] = (),
    drain_seconds: float = 30.0,
) -> FastAPI:
    """The application of a service, which it closes when it ends.

    api_key: that /v1 asks for; cors_origins: pages of other servers that may use it
    drain_seconds: that running answers have to finish when the server is stopped
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.close, drain_seconds)

    app = FastAPI(
        title="text-to-lora", version=text_to_lora.__version__, lifespan=life, openapi_url=None
    )
    app.add_middleware(Guard, service=service, api_key=api_key)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_exception_handler(T2LError, _refuse)
    for kind in (404, 405, Exception):
        app.add_exception_handler(kind, _refuse)
    _add_model_routes(app, service)
    _add_adapter_routes(app, service)
    return app


def run(app: FastAPI, listener: socket.socket, *, drain_seconds: float = 30.0) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what runs."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, int(drain_seconds)),
        server_header=False,
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has ended
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])


def _add_model_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        alive = service.engine.is_alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = list(service.base_names)
        for adapter in await asyncio.to_thread(service.list_adapters):
            if adapter["status"] == "ready":
                names += [adapter["id"], *adapter["aliases"]]
        return {"object": "list", "data": [_model(name) for name in names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in service.base_names:
            service.pool.resolve(name)
        return _model(name)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answer(request, service, parse(await _read(request, service), ChatBody))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(request, service, parse(await _read(request, service), CompletionBody))


def _add_adapter_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/adapters")
    async def make(request: Request) -> Response:
        body = parse(await _read(request, service), AdapterBody)
        if body.examples is not None:
            return JSONResponse(service.refine(body), 202)
        new_adapters = await asyncio.wrap_future(service.make_adapters(body))
        listed = {"object": "list", "data": new_adapters}
        return JSONResponse(new_adapters[0] if body.descriptions is None else listed, 201)

    @app.get("/v1/adapters")
    async def show_all() -> dict[str, Any]:
        return {"object": "list", "data": await asyncio.to_thread(service.list_adapters)}

    @app.get("/v1/adapters/{name}")
    async def show(name: str) -> dict[str, Any]:
        return service.show_adapter(name)

    @app.delete("/v1/adapters/{name}")
    async def delete(name: str) -> dict[str, Any]:
        removed = await asyncio.wrap_future(service.delete(name))
        return {"id": removed, "object": "adapter", "deleted": True}

    @app.get("/v1/adapters/{name}/download")
    async def download(name: str, format: str = "peft") -> Response:
        content, file_name = await asyncio.to_thread(service.pack, name, format)
        kind = "application/zip" if file_name.endswith(".zip") else "application/octet-stream"
        headers = {"Content-Disposition": f'attachment; filename="{file_name}"'}
        return Response(content, media_type=kind, headers=headers)


async def _read(request: Request, service: Service) -> bytes:
    """The body of a request.

    Raises RequestError when it is too long.
    """
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > service.limits.max_body:
            raise too_long(service.limits.max_body)
    return bytes(content)


async def _answer(request: Request, service: Service, body: ChatBody | CompletionBody) -> Response:
    """Answer a request whole, or as a stream once its first piece is there."""
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

    def deliver(index: int, piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

    answers = service.submit(body, deliver)
    is_chat = isinstance(body, ChatBody)
    name = f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}"
    replies = Replies(is_chat, name, int(time.time()), body.model, service.decode)
    prompt_tokens = sum(len(answer.prompt_ids) for answer in answers[:: body.n])
    source = _until_all_end(request, answers, pieces)
    try:
        first = await anext(source)
        service.metrics.first_token.observe(time.perf_counter() - started)
        if body.stream:
            chunks = _stream(service, body, replies, first, source, prompt_tokens)
            return StreamingResponse(chunks, media_type="text/event-stream")
        parts: list[list[Piece]] = [[] for _ in answers]
        parts[first[0]].append(first[1])
        async for index, piece in source:
            parts[index].append(piece)
    except _ClientGone:
        return Response(status_code=_CLIENT_GONE)
    completion_tokens = sum(part[-1].num_tokens for part in parts)
    cost = service.metrics.tokens(prompt_tokens, completion_tokens)
    return JSONResponse(replies.whole(parts, cost))


class _ClientGone(Exception):
    """The client went away."""


async def _until_all_end(
    request: Request, answers: Sequence[Answer], pieces: asyncio.Queue[tuple[int, Piece]]
) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of all answers; rows are freed when the client goes away.

    Raises the error that an answer ends with, _ClientGone when nobody listens any more.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.ensure_future(watch())
    running = len(answers)
    try:
        while running:
            coming = asyncio.ensure_future(pieces.get())
            await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                raise _ClientGone
            index, piece = coming.result()
            if piece.error is not None:
                raise piece.error
            running -= piece.finish is not None
            yield index, piece
    finally:
        gone.cancel()
        for answer in answers:
            answer.cancelled = True


async def _stream(
    service: Service,
    body: ChatBody | CompletionBody,
    replies: Replies,
    first: tuple[int, Piece],
    source: AsyncIterator[tuple[int, Piece]],
    prompt_tokens: int,
) -> AsyncIterator[str]:
    """The events of a stream; an error in the middle is its last event but one."""
    counts: dict[int, int] = {}

    def events(index: int, piece: Piece) -> str:
        chunks = replies.chunks(index, piece, first=index not in counts)
        counts[index] = piece.num_tokens
        return "".join(map(_event, chunks))

    try:
        yield events(*first)
        async for index, piece in source:
            yield events(index, piece)
        cost = service.metrics.tokens(prompt_tokens, sum(counts.values()))
        if body.stream_options.include_usage:
            yield _event(replies.cost(cost))
    except _ClientGone:
        return
    except T2LError as error:
        yield _event(RequestError.of(error).body)
    finally:
        await source.aclose()  # type: ignore[attr-defined]
    yield "data: [DONE]\n\n"


def _event(payload: Any) -> str:
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n"


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "text-to-lora"}


def _answer_error(error: RequestError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _refuse(request: Request, error: Exception) -> Response:
    """The answer that an exception becomes."""
    if isinstance(error, T2LError):
        return _answer_error(RequestError.of(error))
    status = getattr(error, "status_code", None)
    if status is not None:
        message = f"{request.method} {request.url.path}: {getattr(error, 'detail', 'refused')}"
        return _answer_error(RequestError(message, status=status))
    message = f"the server failed ({type(error).__name__}); see its log"
    return _answer_error(RequestError(message, status=500, kind="server_error"))
