"""The links of a built site to itself: each leads to a file that is there, and to a place in it that is there."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

APART = ("404.html", "_static")


class Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]
        self.targets += [part.split()[0] for part in (found.get("srcset") or "").split(",") if part.split()]


def broken_links(site: Path) -> list[str]:
    """A line for each link from a page of the site to the site that leads nowhere.

    Without the theme's templates, and without 404.html, which is shown in place of any page, so that its links begin
    where the site is published.
    """
    paths = [path for path in sorted(site.rglob("*.html")) if path.relative_to(site).parts[0] not in APART]
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in paths}
    broken = []
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = path.parent / unquote(parts.path) if not parts.path.startswith("/") else site / parts.path[1:]
            place = path if not parts.path else place.resolve()
            place = place / "index.html" if place.is_dir() else place
            if not place.is_file():
                broken.append(f"{path.relative_to(site.resolve())}: {target}: no such file")
            elif parts.fragment and place in pages and unquote(parts.fragment) not in pages[place].places:
                broken.append(f"{path.relative_to(site.resolve())}: {target}: no such place in the page")
    return broken
