"""What rst refers to, as links in Markdown, which a notebook has: to the site's pages, or plain text without a site."""

import re

from docutils.nodes import make_id

ROLE = re.compile(
    r":(?:\w+:)?(?P<role>func|class|meth|attr|mod|exc|data|obj|ref|doc|term):`(?P<text>[^`]+)`", re.DOTALL
)
TITLED = re.compile(r"(?P<title>.*?)\s*<(?P<target>[^<>]+)>", re.DOTALL)
ADMONITION = re.compile(
    r"^\.\. (?P<kind>admonition|tip|important|hint|caution|seealso|note|warning):: ?(?P<first>[^\n]*)\n"
    r"(?P<rest>(?:[ \t]*\n| {3,}[^\n]*(?:\n|\Z))*)",
    re.MULTILINE,
)
INNER = re.compile(r"(?<!`)`([^`<:]+)`_(?![_\w])")  # a heading of the same page
TABLE = re.compile(r"^\.\. list-table::[^\n]*\n(?P<rest>(?:[ \t]*\n| {3,}[^\n]*(?:\n|\Z))*)", re.MULTILINE)
OPTION = re.compile(r"^ +:[\w-]+:.*\n", re.MULTILINE)


class Site:
    """Where on the site the labels, terms, documents and names of a built environment are."""

    def __init__(self, env, address: str, suffix: str = ".html") -> None:
        """``address`` is the site's, with a slash at its end; empty if it is not published."""
        self.address, self.suffix = address, suffix
        standard, python = env.get_domain("std"), env.get_domain("py")
        self.labels = {name: (doc, place, title) for name, (doc, place, title) in standard.labels.items()}
        self.terms = {name.lower(): value for (kind, name), value in standard.objects.items() if kind == "term"}
        self.names = {name: (entry.docname, entry.node_id) for name, entry in python.objects.items()}
        self.titles = {doc: title.astext() for doc, title in env.titles.items()}

    def find(self, role: str, target: str, here: str) -> tuple[str, str, str] | None:
        """The document, the place in it and its title, for what a role names; None if the site does not have it."""
        if role == "ref":
            return self.labels.get(target)
        if role == "doc":
            folder = here.rpartition("/")[0]
            doc = target.lstrip("/") if target.startswith("/") or not folder else f"{folder}/{target}"
            return (doc, "", self.titles[doc]) if doc in self.titles else None
        if role == "term":
            found = self.terms.get(target.lower())
            return (*found, target) if found else None
        name = target.strip("()")
        found = self.names.get(name) or self.names.get(f"decodeloop.{name}")
        return (*found, name) if found else None

    def url(self, doc: str, place: str) -> str:
        return f"{self.address}{doc}{self.suffix}{'#' if place else ''}{place}"

    def markdown(self, text: str, here: str) -> str:
        """The same rst, its references in Markdown. ``here`` is the document that it stands in."""

        def link(match: re.Match) -> str:
            role, given = match["role"], " ".join(match["text"].split())
            titled = TITLED.fullmatch(given)
            target = titled["target"] if titled else given.lstrip("~!")
            found = self.find(role, target, here)
            named = role in ("ref", "doc", "term")
            shown = titled["title"] if titled else found[2] if found and named else target
            if given.startswith("~"):
                shown = target.rpartition(".")[2]
            shown = shown if named or titled else f"`{shown}{'()' if role in ('func', 'meth') else ''}`"
            return f"[{shown}]({self.url(found[0], found[1])})" if found and self.address else shown

        def heading(match: re.Match) -> str:
            title = " ".join(match[1].split())
            return f"[{title}]({self.url(here, make_id(title))})" if self.address else title

        return ROLE.sub(link, INNER.sub(heading, text)).replace("\\ ", "")


def admonitions(text: str) -> str:
    """Boxes as quotations, each line of them, after their title."""

    def quoted(match: re.Match) -> str:
        body = OPTION.sub("", match["rest"])
        title, first = (match["first"], "") if match["kind"] == "admonition" else (match["kind"], match["first"])
        lines = [f"**{title.strip().capitalize() if title.islower() else title.strip()}**", ""]
        lines += [line.strip() for line in f"{first}\n{body}".strip().splitlines()]
        return "\n".join(f"> {line}".rstrip() for line in lines) + "\n\n"

    return ADMONITION.sub(quoted, text)


def tables(text: str) -> str:
    """Lists that are tables, as tables: the first row is the header."""

    def table(match: re.Match) -> str:
        rows: list[list[str]] = []
        for line in OPTION.sub("", match["rest"]).splitlines():
            if found := re.match(r" +(\* )?- ?(.*)", line):
                if found[1]:
                    rows.append([])
                rows[-1].append(found[2].strip())
            elif line.strip():
                rows[-1][-1] += f" {line.strip()}"
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n"

    return TABLE.sub(table, text)
