"""A stand-in for the Hugging Face hub, as far as its own client needs one to make a repository and commit to it."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


def hidden(told: dict[str, Any]) -> bool:
    """Whether a request wants a repository that others cannot see."""
    return bool(told.get("private")) or told.get("visibility") == "private"


class Hub(ThreadingHTTPServer):
    """Repositories by `models/OWNER/NAME` or `datasets/OWNER/NAME`, with what was committed to them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.refuses: int | None = None
        """A status with which every commit is answered."""
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PUT = do_GET  # noqa: N815  # as the base class names them

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0].removeprefix("/api/").lstrip("/")
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("blobs/"):
            self.server.large[path.removeprefix("blobs/")] = body
            return self.say(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say(401, {"error": "Invalid username or password."})
        if path == "validate-yaml":
            return self.say(200, {"errors": [], "warnings": []})
        if path == "repos/create":
            return self.create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.say(
                200, {"transfer": "basic", "objects": [self.upload(blob) for blob in json.loads(body)["objects"]]}
            )
        name, what = "/".join(path.split("/")[:3]), path.split("/")[3:]
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if what[:1] == ["settings"]:
            repository.private = hidden(json.loads(body))
            return self.say(200, {"private": repository.private})
        if what[:1] == ["preupload"]:
            files = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                      "shouldIgnore": False} for f in json.loads(body)["files"]]  # fmt: skip
            return self.say(200, {"files": files})
        if what[:1] == ["commit"]:
            return self.commit(repository, name, [json.loads(line) for line in body.splitlines()])
        return self.say(
            200, {"id": "/".join(name.split("/")[1:]), "private": repository.private, "siblings": [], "tags": []}
        )

    def create(self, told: dict[str, Any]) -> None:
        name = f"{told.get('type', 'model')}s/{told.get('organization', 'me')}/{told['name']}"
        self.server.repositories.setdefault(name, Repository(hidden(told)))
        self.say(200, {"url": f"{self.server.url}/{name.removeprefix('models/')}", "id": name.partition("/")[2]})

    def upload(self, blob: dict[str, Any]) -> dict[str, Any]:
        return {**blob, "actions": {"upload": {"href": f"{self.server.url}/blobs/{blob['oid']}"}}}

    def commit(self, repository: Repository, name: str, lines: list[dict[str, Any]]) -> None:
        if self.server.refuses:
            return self.say(self.server.refuses, {"error": "no room left in your plan"})
        for line in lines:
            of = line["value"]
            if line["key"] == "file":
                repository.files[of["path"]] = base64.b64decode(of["content"])
            if line["key"] == "lfsFile":
                repository.files[of["path"]] = self.server.large[of["oid"]]
        address = f"{self.server.url}/{name.removeprefix('models/')}/commit/{'0' * 40}"
        return self.say(200, {"commitUrl": address, "commitOid": "0" * 40, "hookOutput": "", "success": True})

    def say(self, status: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(told).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def served() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
