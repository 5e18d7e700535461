"""A local OpenAI-compatible server: real HTTP, scripted answers and faults."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server sends: a chat completion of ``text``, or ``body`` as it is with ``status``, after ``delay`` s.

    ``top_logprobs`` are those of the first token. ``cut`` sends half the body and closes the connection.
    """

    text: str | None = ""
    top_logprobs: Mapping[str, float] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    body: str | None = None
    content_type: str = "application/json"
    cut: bool = False
    usage: tuple[int, int] | None = (100, 1)
    tool_arguments: str | None = None
    refusal: str | None = None
    finish_reason: str = "stop"


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """An error in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": code, "code": code}})
    return Reply(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


class JudgeServer:
    """Answers chat completions by ``reply(request, seen)``; ``seen`` counts how often the same request came before."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply | str]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.paths: set[str] = set()
        self.times: list[float] = []
        self._seen: Counter[str] = Counter()
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805
                request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock:
                    seen = self._seen[json.dumps(request)]
                    self._seen[json.dumps(request)] += 1
                    self.requests.append(request)
                    self.times.append(time.monotonic())
                    self.keys.add(handler.headers["Authorization"])
                    self.paths.add(handler.path)
                answer = reply(request, seen)
                answer = Reply(answer) if isinstance(answer, str) else answer
                time.sleep(answer.delay)
                body = (answer.body if answer.body is not None else _completion(answer)).encode()
                handler.send_response(answer.status)
                for name, value in {"Content-Type": answer.content_type, **answer.headers}.items():
                    handler.send_header(name, value)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                with contextlib.suppress(OSError):  # the client may have given up
                    handler.wfile.write(body[: len(body) // 2] if answer.cut else body)
                if answer.cut:
                    handler.close_connection = True

            def log_message(handler, *arguments: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _completion(reply: Reply) -> str:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    if reply.tool_arguments is not None:
        function = {"name": "f", "arguments": reply.tool_arguments}
        message["tool_calls"] = [{"id": "call", "type": "function", "function": function}]
    choice: dict[str, Any] = {"index": 0, "finish_reason": reply.finish_reason, "message": message}
    if reply.top_logprobs is not None:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in reply.top_logprobs.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    completion: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
    completion["choices"] = [choice]
    if reply.usage is not None:
        prompt, generated = reply.usage
        total = prompt + generated
        completion["usage"] = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": total}
    return json.dumps(completion)
