"""An OpenAI-compatible server on the loopback: it streams, keeps the books, and misbehaves as it is told."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("rate limit", "busy", "cut before", "cut within", "silence", "error within", "broken off")


class Server(ThreadingHTTPServer):
    """Answers with the question in capitals, in pieces; `fault(number)` says what goes wrong with a request."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, fault: Callable[[int], str | None] = lambda number: None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.lock, self.gate = fault, threading.Lock(), threading.Barrier(1)
        self.requests: list[dict] = []
        self.paused_until, self.impatient = 0.0, 0
        """Requests that came although a Retry-After had told everyone to wait."""
        self.answered: Counter[tuple[str, int]] = Counter()
        """By (question, seed): responses that were sent to their last byte."""
        self.bill = Counter()
        """Tokens of those responses: `prompt` and `output`."""
        self.message = lambda body: {"content": body["messages"][-1]["content"].upper()}
        self.tell = None
        """What a completion says of the tokens of its prompt, from its body."""
        self.finish, self.status, self.usage, self.secret = "stop", None, True, None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_) -> None:
        """A client that was killed leaves broken connections."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.impatient += time.monotonic() < server.paused_until
            server.requests.append(body)
            server.secret = self.headers["Authorization"]
            fault = server.fault(len(server.requests))
        server.gate.wait(60)
        if server.status:
            self.refuse(server.status, f"no: {server.secret} is not welcome")
        elif fault == "rate limit":
            with server.lock:
                server.paused_until = time.monotonic() + 0.05
            self.refuse(429, "slow down", ("Retry-After", "0.05"))
        elif fault == "busy":
            self.refuse(503, "busy")
        elif fault == "page":
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", "15")
            self.end_headers()
            self.wfile.write(b"<html>Hi</html>")
        elif fault == "cut before":
            self.close_connection = True
        elif fault == "silence":
            self.rfile.read(1)  # until the client has gone
            self.close_connection = True
        elif self.path.endswith("/v1/completions"):
            self.complete(body)
        else:
            self.stream(body, fault)

    def complete(self, body: dict) -> None:
        """A token, and vLLM's `prompt_logprobs` beside it."""
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None,
                  "prompt_logprobs": self.server.tell(body)}  # fmt: skip
        data = json.dumps(
            {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, body: dict, fault: str | None) -> None:
        """Piece by piece; only what is sent to its end is on the bill."""
        question, message = body["messages"][-1]["content"], self.server.message(body)
        usage = {"prompt_tokens": len(question), "completion_tokens": 2 * len(message.get("content") or ""),
                 "total_tokens": 0}  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for name, text in message.items():
            for half in (text[: len(text) // 2], text[len(text) // 2 :]):
                self.piece({"choices": [{"index": 0, "delta": {name: half}, "finish_reason": None}]})
                if fault in ("cut within", "error within"):
                    if fault == "error within":
                        self.piece({"error": {"message": "out of memory"}})
                    self.close_connection = True
                    return
        finish = "insufficient_system_resource" if fault == "broken off" else self.server.finish
        self.piece({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if self.server.usage:
            self.piece({"choices": [], "usage": usage})
        self.write("data: [DONE]\n\n")
        with self.server.lock:
            if fault is None:
                self.server.answered[question, body["seed"]] += 1
                self.server.bill.update(prompt=usage["prompt_tokens"], output=usage["completion_tokens"])
        self.wfile.write(b"0\r\n\r\n")

    def piece(self, content: dict) -> None:
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        self.write(f"data: {json.dumps(content if 'error' in content else head | content)}\n\n")

    def write(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def refuse(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        data = json.dumps({"error": {"message": message}}).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the end of the block."""
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()
