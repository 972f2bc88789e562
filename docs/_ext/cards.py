"""The list of the pages, ``gallery/index.rst``: a line for each, which becomes its card and its place in the menus."""

from pathlib import Path

from page_list import face, listed
from sphinx.util.docutils import SphinxDirective

CARD = """\
   .. grid-item-card:: {number}. {title}
      :link: sphx_glr_auto_gallery_{page}.py
      :link-type: ref
      :img-top: {image}

      {text}

"""


class Pages(SphinxDirective):
    """A section of the book: ``.. pages:: Title``, and in it ``plot_x: what it is about.`` for each page, in order.

    A card has the page's own title and its drawing, or its first plot where it has none. The cards of a document are
    counted through all of its sections. The landing page, which includes the list, leaves out the table of contents.
    """

    required_arguments, final_argument_whitespace, has_content = 1, True, True

    def run(self):
        section, pages = self.arguments[0], listed(self.content)
        scripts = {page: Path(self.env.srcdir, "auto_gallery", f"{page}.py") for page in pages}
        if lost := [page for page, script in scripts.items() if not script.exists()]:
            raise self.error(f"{', '.join(lost)}: listed here, and not in gallery/.")
        first = self.env.temp_data.get("cards", 0) + 1
        self.env.temp_data["cards"] = first - 1 + len(pages)
        text = f".. rubric:: {section}\n\n.. grid:: 1 2 2 3\n   :gutter: 3\n\n"
        for number, (page, about) in enumerate(pages.items(), first):
            title, image = face(page, scripts[page])
            text += CARD.format(number=number, title=title, page=page, image=image, text=about)
        if self.env.docname.startswith("auto_gallery/"):
            text += f".. toctree::\n   :hidden:\n   :caption: {section}\n\n" + "".join(f"   {page}\n" for page in pages)
        return self.parse_text_to_nodes(text)
