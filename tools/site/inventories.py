"""Keep what this book can link to of another library's documentation, so that a build needs no network.

``python tools/site/inventories.py OBJECTS.INV pandas`` reads the inventory that a Sphinx site publishes, or that Debian
packs with its documentation, and writes docs/inventories/pandas.inv: the Python names that the installed library still
has. An inventory may be older than the library.
"""

import argparse
import importlib
import re
import zlib
from pathlib import Path

from recorded import ROOT

FOLDER = ROOT / "docs" / "inventories"
ENTRY = re.compile(r"(.+?)\s+(\S+)\s+(-?\d+)\s+(\S*)\s+(.*)")  # name, kind, priority, place, title
KEPT = ("py:class", "py:data", "py:exception", "py:function", "py:method", "py:module")


def read_inventory(path: Path) -> tuple[str, list[list[str]]]:
    """Its version, and of each entry: name, kind, priority, place, title."""
    head, body = path.read_bytes().split(b"# The remainder of this file is compressed using zlib.\n", 1)
    version = head.decode().splitlines()[2].partition("Version: ")[2]
    lines = zlib.decompress(body).decode().splitlines()
    return version, [list(found.groups()) for found in map(ENTRY.fullmatch, lines) if found]


def write_inventory(path: Path, name: str, version: str, entries: list[list[str]]) -> None:
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: {version}\n"
    head += "# The remainder of this file is compressed using zlib.\n"
    body = "".join(" ".join(entry) + "\n" for entry in sorted(entries))
    path.write_bytes(head.encode() + zlib.compress(body.encode(), 9))


def exists(name: str) -> bool:
    """Whether what an installed library calls by this dotted name is there."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        try:
            for part in parts[count:]:
                found = getattr(found, part)
            return True
        except AttributeError:
            return False
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventory", type=Path)
    parser.add_argument("name", help="such as pandas: the library, and the file in docs/inventories")
    parser.add_argument("--only", nargs="*", help="the first parts of the names to keep; else the library's own")
    options = parser.parse_args()
    version, entries = read_inventory(options.inventory)
    first = set(options.only or [options.name])
    kept = [entry for entry in entries if entry[1] in KEPT and entry[0].partition(".")[0] in first and exists(entry[0])]
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{options.name}.inv"
    write_inventory(path, options.name, version, kept)
    print(f"{path.relative_to(ROOT)}: {len(kept)} of {len(entries)} entries, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
