"""What the Markdown of a page would leave out: where links within it lead, and the titles and links of cards."""

from docutils import nodes

BUILDER = "markdown"


def setup(app):
    app.connect("doctree-resolved", complete)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def complete(app, doctree: nodes.document, document: str) -> None:
    """Change what sphinx_markdown_builder is about to write; other builders' pages stay as they are."""
    if app.builder.name != BUILDER:
        return
    for link in doctree.findall(nodes.reference):
        if "refid" in link:
            link["internal"] = True  # else it writes the empty address of this page, without the anchor
    for card in doctree.findall(lambda node: _is(node, "card")):
        title = next(card.findall(lambda node: _is(node, "card-title")), None)
        link = next(card.findall(lambda node: "sd-stretched-link" in _classes(node)), None)
        if title is not None:
            text = title.astext()
            where = {key: link[key] for key in ("refuri", "refid") if key in link} if link is not None else {}
            named = nodes.reference("", text, internal=True, **where) if where else nodes.Text(text)
            title.children = [nodes.paragraph("", "", named)]
            title.setup_child(title.children[0])


def _is(node: nodes.Node, component: str) -> bool:
    return isinstance(node, nodes.container) and node.get("design_component") == component


def _classes(node: nodes.Node) -> list[str]:
    return node["classes"] if isinstance(node, nodes.reference) else []
