"""Hub ids, against a hub of our own on the loopback interface, and against one that does not answer."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys, time
import decodeloop
began = time.perf_counter()
try:
    loaded = decodeloop.load(sys.argv[1], device="cpu", random_weights=len(sys.argv) > 2)
    print(loaded.source, loaded.weights, loaded.model.config.model_type, loaded.tokenizer is not None)
except Exception as error:
    print(type(error).__name__, error)
print(round(time.perf_counter() - began))
"""


@pytest.fixture
def hub(llama, tmp_path):
    """A hub that knows one model, tiny/llama."""
    llama.save_pretrained(tmp_path / "served")
    files = {f.name: f.read_bytes() for f in (tmp_path / "served").iterdir()} | {"pytorch_model.bin": b"never fetched"}
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self, body=True):
            asked.append(self.path)
            path = self.path.split("?")[0]
            if path.startswith("/api/models/tiny/llama/tree"):
                rows = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()]
                self.answer(json.dumps(rows).encode(), body)
            elif path.startswith("/api/models/tiny/llama"):
                siblings = [{"rfilename": name} for name in files]
                self.answer(json.dumps({"id": "tiny/llama", "sha": SHA, "siblings": siblings}).encode(), body)
            elif path.startswith("/tiny/llama/resolve/") and path.rsplit("/", 1)[1] in files:
                name = path.rsplit("/", 1)[1]
                self.answer(files[name], body, {"X-Repo-Commit": SHA, "ETag": f'"{name}"'})
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def do_HEAD(self):
            self.do_GET(body=False)

        def answer(self, content, body, headers=()):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def load(endpoint, cache, *args):
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
    }
    result = subprocess.run([sys.executable, "-c", LOAD, *args], env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    *lines, seconds = result.stdout.splitlines()
    return "\n".join(lines), int(seconds)


def test_a_hub_id_is_downloaded_then_found_without_the_hub(hub, tmp_path):
    endpoint, asked = hub
    assert load(endpoint, tmp_path / "cache", "tiny/llama")[0] == "hub trained llama False"
    assert not any("pytorch_model.bin" in path for path in asked)
    unreachable = "http://127.0.0.1:9"
    assert load(unreachable, tmp_path / "cache", "tiny/llama")[0] == "hub trained llama False"


def test_an_unknown_model_is_one_line(hub, tmp_path):
    said, _ = load(hub[0], tmp_path / "cache", "tiny/lama")
    assert said.startswith("OSError cannot load 'tiny/lama': the Hugging Face hub has no such model")
    assert "random_weights=True" in said
    assert len(said.splitlines()) == 1


def test_an_unreachable_hub_is_one_line_and_quick(tmp_path):
    said, seconds = load("http://127.0.0.1:9", tmp_path / "cache", "microsoft/phi-1_5")
    assert said.startswith("OSError cannot load 'microsoft/phi-1_5': the Hugging Face hub cannot be reached")
    assert "random_weights=True" in said
    assert len(said.splitlines()) == 1
    assert seconds < 10


def test_random_weights_of_an_unlisted_model_need_only_its_configuration(hub, tmp_path):
    endpoint, asked = hub
    assert load(endpoint, tmp_path / "cache", "tiny/llama", "random")[0].startswith("hub random llama")
    assert not any(path.endswith(".safetensors") for path in asked)
