"""Show the site on this machine, and build it again when a file of the project changes. Ctrl-C ends it."""

import functools
import http.server
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from notebooks import newest_site
from recorded import ROOT

WATCHED = ("gallery", "docs", "src", "benchmarks", "tools/site", "CHANGELOG.md")
PORT = int(os.environ.get("PORT", 8000))


def state(root: Path = ROOT) -> dict[Path, int]:
    """When each file of the project that the site is made from was written last."""
    files = [
        path for name in WATCHED for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])
    ]
    apart = root / "docs" / "_build"
    found = [path for path in files if apart not in path.parents and "__pycache__" not in path.parts and path.is_file()]
    return {path: path.stat().st_mtime_ns for path in found}


def serve(arguments: list[str], build: Callable[[list[str]], int], pause: float = 1.0) -> int:
    """Build with these arguments, serve what was built, and do it again at each change."""
    before, code = state(), build(arguments)
    site = newest_site()
    if site is None:
        return code
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}/ shows it, and is built again when a file changes.", flush=True)
    try:
        while True:
            time.sleep(pause)
            if (now := state()) != before:
                before = now
                build(arguments)
    except KeyboardInterrupt:
        return 0
    finally:
        server.shutdown()
