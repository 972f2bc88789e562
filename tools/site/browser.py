"""Look at a built site as its readers do: in Chromium, as wide as a phone and as a desk, light and dark.

Each page must be free of what axe-core calls a violation, of sideways scrolling, of figures whose text is too small to
read, of messages on the console, and must ask no other site for anything. Links within the site must lead somewhere.
``--screenshots FOLDER`` keeps pictures of some pages instead. Chromium is the one that is installed; where there is
none, the checks are skipped, and the report says so.
"""

import argparse
import contextlib
import functools
import http.server
import json
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from links import broken_links
from notebooks import newest_site
from recorded import ROOT
from screenshots import take

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = {"phone": 390, "desk": 1360}
THEMES = ("light", "dark")
STYLE = ROOT / "docs" / "figures.mplstyle"
SMALLEST = 9  # CSS pixels, of the text in a figure
HEAVIEST, LARGEST = 1.5e6, 40e6  # bytes: of what one page loads for itself, and of the site
ASK = Path(__file__).with_suffix(".js").read_text(encoding="utf-8").rstrip("; \n")
#: One page of each kind.
QUICK = (
    *("index.html", "search.html", "genindex.html", "coverage.html", "glossary.html", "auto_gallery/index.html"),
    *("auto_gallery/plot_generate.html", "auto_gallery/plot_engines.html", "generated/decodeloop.OnnxDecoder.html"),
)
COLOURS = ("color-contrast", "link-in-text-block")
#: What axe-core calls experimental, and a reader would miss.
MORE = ("label-content-name-mismatch", "p-as-heading", "table-fake-caption", "td-has-header", "hidden-content")


def find_browser() -> str | None:
    """The program of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(site: Path):
    """The address of a server of the site on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


@contextlib.contextmanager
def opened(browser, address: str, width: int, theme: str, finds: list | None = None):
    """A tab of that width and theme; requests to other sites fail, and are finds like the console's messages."""
    finds, phone = [] if finds is None else finds, width == WIDTHS["phone"]
    size = {"width": width, "height": 844 if phone else 900}
    context = browser.new_context(viewport=size, is_mobile=phone, color_scheme=theme, device_scale_factor=2)
    context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")

    def asked(route, request):
        if request.url.startswith((address, "data:", "blob:")):
            return route.continue_()
        finds.append(("external request", request.url))
        return route.abort()

    context.route("**/*", asked)
    tab = context.new_page()
    tab.on("console", lambda message: message.type == "error" and finds.append(("console", said(message))))
    tab.on("pageerror", lambda error: finds.append(("console", str(error))))
    yield tab, address
    context.close()


def said(message) -> str:
    return f"{message.text} {message.location['url']}"


def smallest_text() -> float:
    """The least font size of the book's plot style, in points."""
    import matplotlib
    from matplotlib.font_manager import font_scalings

    style = matplotlib.rc_params_from_file(STYLE, use_default_template=True)
    keys = ("axes.labelsize", "axes.titlesize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize")
    return min(style["font.size"] * font_scalings[s] if isinstance(s, str) else s for s in (style[key] for key in keys))


def look(browser, address: str, pages: list[str], text: float) -> tuple[list[tuple[str, str, str]], dict[str, dict]]:
    """What is wrong, as (rule, where, what), and for each page what it weighs and how soon it shows."""
    from axe_playwright_python.sync_playwright import Axe

    axe, wrong, costs = Axe(), [], {}
    for name, width in WIDTHS.items():
        for theme in THEMES:
            # preload would read the style sheets again, and ask for what they import at the wrong place.
            options = {"resultTypes": ["violations"], "preload": False}
            options["rules"] = {rule: {"enabled": True} for rule in MORE}
            if theme != THEMES[0]:  # only its colours differ
                options |= {"rules": {}, "runOnly": {"type": "rule", "values": COLOURS}}
            finds: list[tuple[str, str]] = []
            with opened(browser, address, width, theme, finds) as (tab, _):
                for page in pages:
                    finds.clear()
                    tab.goto(address + page, wait_until="load")
                    seen = tab.evaluate(ASK, [text, SMALLEST])
                    finds += [("sideways scroll", what) for what in seen["sideways"]]
                    finds += [("figure text", what) for what in seen["small"]]
                    costs[page] = {"bytes": seen["bytes"], "paint": seen["paint"]}
                    for rule in axe.run(tab, options=options).response["violations"]:
                        where = [str(node["target"][0]) for node in rule["nodes"]]
                        finds += [(f"axe: {rule['id']} ({rule['impact']})", target) for target in where]
                    wrong += [(rule, f"{page} ({name}, {theme})", what) for rule, what in finds]
    return wrong, costs


def report(wrong: list[tuple[str, str, str]], shown: int = 5) -> str:
    """By rule: how often, on how many pages, and some of the places."""
    lines = []
    for rule, count in Counter(rule for rule, _, _ in wrong).most_common():
        found = [(where, what) for each, where, what in wrong if each == rule]
        pages = len({where.partition(" (")[0] for where, _ in found})
        lines.append(f"{rule}: {count} on {pages} pages")
        for what, times in Counter(what for _, what in found).most_common(shown):
            where = next(where for where, each in found if each == what)
            lines.append(f"    {times} x {what[:150]}    first on {where}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s browser --", description=__doc__)
    parser.add_argument("site", nargs="?", type=Path, help="the folder of a built site; else the newest in docs/_build")
    parser.add_argument("--only", default="", metavar="TEXT", help="pages whose name holds it")
    parser.add_argument("--all", action="store_true", help="the pages of source code (_modules), too")
    parser.add_argument("--quick", action="store_true", help="a few pages, one of each kind")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write pictures there, and check nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all finds there")
    options = parser.parse_args(arguments)
    site = options.site or newest_site()
    if site is None or not (site / "index.html").exists():
        parser.error("no built site there: nox -s docs -- --fast builds one.")
    program = find_browser()
    if program is None:
        print(f"Skipped: none of {', '.join(BROWSERS)} is installed here.")
        return 0
    from playwright.sync_api import sync_playwright

    pages = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    pages = [p for p in pages if options.only in p and not p.startswith("_static/") and p != "404.html"]
    pages = [p for p in pages if options.all or not p.startswith("_modules/")]
    if options.quick:
        pages = [page for page in pages if page in QUICK]
    started = time.perf_counter()
    with served(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        if options.screenshots:
            print(*take(functools.partial(opened, browser, address), options.screenshots), sep="\n")
            return 0
        wrong, costs = look(browser, address, pages, smallest_text())
        browser.close()
    wrong += [("broken link", *line.split(": ", 1)) for line in broken_links(site)]
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    wrong += [("page weight", page, f"{c['bytes'] / 1e6:.1f} MB") for page, c in costs.items() if c["bytes"] > HEAVIEST]
    wrong += [("site size", "all", f"{size / 1e6:.0f} MB")] if size > LARGEST else []
    if options.json:
        options.json.write_text(json.dumps({"wrong": wrong, "costs": costs}, indent=1))
    heaviest = max(costs, key=lambda page: costs[page]["bytes"])
    print(report(wrong) or "Nothing is wrong.")
    print(
        f"{site}: {len(pages)} pages, {len(pages) * 4} loads in {time.perf_counter() - started:.0f} s; "
        f"{size / 1e6:.1f} MB; heaviest page {heaviest}, {costs[heaviest]['bytes'] / 1e6:.2f} MB; "
        f"slowest first paint {max(c['paint'] for c in costs.values()):.0f} ms"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
