"""What stands before every route: the key, the length of bodies, the counting of requests."""

from __future__ import annotations

import hmac
import json
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from text_to_lora.errors import ConfigError
from text_to_lora.serving.service import Service
from text_to_lora.serving.wire import RequestError

_Scope = MutableMapping[str, Any]
_Asgi = Callable[[_Scope, Any, Any], Awaitable[None]]


class Guard:
    """Asks for the key, bounds bodies and counts requests, before anything else sees them."""

    def __init__(self, app: _Asgi, service: Service, api_key: str | None) -> None:
        self._app, self._service = app, service
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: _Scope, receive: Any, send: Any) -> None:
        """Handle one request, or hand on what is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def note(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = dict(scope["headers"])
        problem = self._check_key(scope["path"], headers) or self._check_length(headers)
        try:
            if problem is not None:
                await _send_error(problem, note)
            else:
                await self._app(scope, receive, note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.request(route, status, time.perf_counter() - started)

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> RequestError | None:
        if self._key is None or not path.startswith("/v1/"):
            return None
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if hmac.compare_digest(given, self._key):
            return None
        message = "Incorrect API key provided; send the one that the server was started with."
        return RequestError(message, status=401, code="invalid_api_key")

    def _check_length(self, headers: dict[bytes, bytes]) -> RequestError | None:
        length = headers.get(b"content-length", b"0")
        limit = self._service.limits.max_body
        return too_long(limit) if length.isdigit() and int(length) > limit else None


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for clients.

    Raises ConfigError when the address cannot be had.
    """
    try:
        return socket.create_server((host, port), reuse_port=False)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another") from None


def too_long(limit: int) -> RequestError:
    """The error of a body that is longer than so many bytes."""
    return RequestError(f"the body has more than {limit} bytes; send less", status=413)


async def _send_error(error: RequestError, send: Any) -> None:
    content = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content))}
    pairs = [(k.lower().encode(), v.encode()) for k, v in {**headers, **error.headers}.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
