"""A server on this machine that speaks the chat-completions protocol, well or badly, as told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], Any]
"""Request in; out a text, a status code, seconds to wait before a text, or bytes as they are."""


@dataclass
class ChatServer:
    """Where the server is, and what it was asked."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def serve(answer: Answer, *, count_tokens: bool = True) -> Iterator[ChatServer]:
    """Answer every request by a function until the block is left."""
    lock, running = threading.Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            nonlocal running
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                running += 1
                server.requests.append({"path": self.path, **request})
                server.keys.append(self.headers.get("Authorization", ""))
                server.most_at_once = max(server.most_at_once, running)
            reply = answer(request)
            if isinstance(reply, float):
                time.sleep(reply)
                reply = "{}"
            with lock:
                running -= 1
            with suppress(OSError):  # the client has given up
                self._send(reply)

        def _send(self, reply: Any) -> None:
            status, payload = 200, reply
            if isinstance(reply, int):
                status, payload = reply, json.dumps({"error": {"message": f"no {reply}"}}).encode()
            elif isinstance(reply, str):
                message = {"role": "assistant", "content": reply}
                body: dict[str, Any] = {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                }
                if count_tokens:
                    body["usage"] = {
                        "prompt_tokens": 100,
                        "completion_tokens": 10,
                        "total_tokens": 110,
                    }
                payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(payload)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = ChatServer(f"http://127.0.0.1:{httpd.server_port}/v1")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
