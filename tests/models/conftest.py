"""A hub of our own on the loopback interface, which can break in many ways."""

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

import huggingface_hub
import pytest
from huggingface_hub import constants

SHA = "0123456789abcdef0123456789abcdef01234567"
STATUS = {
    "no such model": (404, {"X-Error-Code": "RepoNotFound"}),
    "a bare 404": (404, {}),
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "disabled": (403, {"X-Error-Message": "Access to this resource is disabled."}),
    "bad token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "too many requests": (429, {"Retry-After": "3600"}),
    "down": (503, {}),
}


class Hub:
    """It knows one model, tiny/llama: ``files`` by name. ``fault`` is what goes wrong, ``asked`` what it was asked."""

    name = "tiny/llama"

    def __init__(self, files):
        self.files, self.fault, self.asked, self.sha = files, None, [], SHA
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self, self.path.split("?")[0])

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

            def handle(self):
                with contextlib.suppress(OSError):  # the client has gone
                    super().handle()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request, path):
        self.asked.append(path)
        listing, file = path == f"/api/models/{self.name}", path.rsplit("/", 1)[1]
        weights = file.endswith(".safetensors") and request.command == "GET"
        if not path.startswith((f"/api/models/{self.name}", f"/{self.name}/resolve/")):
            return send(request, 404, b"", STATUS["no such model"][1])
        status = STATUS.get((self.fault or "").removesuffix(" for files"))
        if status and not (listing and self.fault.endswith(" for files")):
            return send(request, status[0], b"", status[1])
        if (self.fault == "reset" and weights) or (self.fault == "reset at once" and listing):
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return request.connection.close()
        if listing and self.fault == "stalled at once":
            return sleep(1)
        if listing and self.fault in ("a web page", "a list", "no files"):
            body = {"a web page": b"<!DOCTYPE html><p>Please log in", "a list": b"[1]", "no files": b'{"id": "a/b"}'}
            return send(request, 200, body[self.fault])
        if listing:
            siblings = [{"rfilename": name, "size": len(body)} for name, body in self.files.items()]
            return send(request, 200, json.dumps({"id": self.name, "sha": self.sha, "siblings": siblings}).encode())
        if file not in self.files:
            return send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        body = self.files[file]
        headers = {"X-Repo-Commit": self.sha, "ETag": f'"{file}-{self.sha[:8]}"', "Content-Length": str(len(body))}
        if self.fault == "a page for config.json" and file == "config.json":
            body = b"<!DOCTYPE html>".ljust(len(body))
        if weights and self.fault in ("cut", "stalled"):
            send(request, 200, body[: len(body) // 2], headers)
            return sleep(0 if self.fault == "cut" else 1)
        return send(request, 200, body, headers)


def send(request, status, body, headers=()):
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


@pytest.fixture
def online(tmp_path, monkeypatch):
    """``online(endpoint)``: the hub's client with an empty cache of its own and quick timeouts, in this process."""

    def go(endpoint):
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's between two attempts
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        huggingface_hub.close_session()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield go
    huggingface_hub.close_session()


@pytest.fixture(scope="session")
def llama_files(llama, tmp_path_factory):
    """The files of a checkpoint, by name."""
    folder = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def hub(llama_files, online):
    """A hub that answers, and the client that asks it."""
    hub = Hub(llama_files | {"pytorch_model.bin": b"never fetched", "other.safetensors": b"never fetched"})
    online(hub.endpoint)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
