"""The site's build: the order of the pages, which build goes where, what makes a page run again, what HTML may show."""

import ast
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES_ON_DISK = sorted(path.name for path in (ROOT / "gallery").glob("plot_*.py"))


def load_script(path: Path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(ROOT / "docs"))  # build.py imports the files beside it
build = load_script(ROOT / "docs" / "build.py")
book = load_script(ROOT / "docs" / "book.py")


@pytest.fixture
def root(tmp_path):
    """A small project: one module, two pages, the text of the site."""
    for name in ("src/package/loops.py", "gallery/plot_a.py", "gallery/plot_b.py", "docs/index.rst", "constraints.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    shutil.copy2(ROOT / "docs" / "figures.mplstyle", tmp_path / "docs")
    return tmp_path


def test_every_page_has_its_place_in_the_book_and_on_the_landing_page():
    assert sorted(book.PAGES) == PAGES_ON_DISK
    landing = (ROOT / "docs" / "index.rst").read_text()
    assert re.findall(r":link: sphx_glr_auto_gallery_(.+)", landing) == book.PAGES


def test_unlisted_page_fails_the_build():
    order = book.PageOrder("gallery")
    assert [order(page) for page in sorted(PAGES_ON_DISK, key=order)] == list(range(len(PAGES_ON_DISK)))
    with pytest.raises(ValueError, match=r"plot_unlisted\.py has no place in the book"):
        order("/somewhere/plot_unlisted.py")


def test_running_times_load_nothing_from_other_sites():
    table = (
        "Computation times\n=================\n**00:01.000** total execution time for 1 file **from all galleries**:\n"
        "\n.. container::\n\n  .. raw:: html\n\n    <script src='https://example.org/x.js'></script>\n"
        "    <script>\n    </script>\n\n  .. list-table::\n\n   * - Example\n     - Time\n     - Mem (MB)\n"
        "   * - :ref:`x` (``../../../../gallery/plot_a.py``)\n     - 00:01.000\n     - 0.0\n"
    )
    book.tidy(None, "sg_execution_times", content := [table])
    assert content[0].startswith("Running times\n=============\n")
    assert content[0].endswith(
        "1 file:\n\n.. container::\n\n  .. list-table::\n\n   * - Example\n     - Time\n"
        "   * - :ref:`x` (``gallery/plot_a.py``)\n     - 00:01.000\n"
    )
    recorded = table.replace("- 0.0", "- 2048.0").replace("/../gallery/", "/scripts/")  # of a GPU, rendered elsewhere
    book.tidy(None, "sg_execution_times", content := [recorded])
    assert "(``gallery/plot_a.py``)" in content[0]
    assert content[0].endswith("     - 00:01.000\n     - 2048.0\n")
    assert "     - Time\n     - GPU memory (MiB)\n" in content[0]


def test_a_page_without_related_pages_has_no_heading_for_them():
    heading, page = ".. rubric:: Related pages\n", '<div class="sphx-glr-thumbcontainer">'
    content = {text: [text] for text in (heading, heading + page)}
    for included in content.values():
        book.drop_if_empty(None, Path("auto_gallery/plot_a.recommendations"), "plot_a", included)
    assert content == {heading: [""], heading + page: [heading + page]}


def test_every_public_name_is_in_the_api_reference():
    decodeloop = pytest.importorskip("decodeloop")
    listed = set(re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.rst").read_text(), flags=re.MULTILINE))
    assert listed == set(decodeloop.__all__)


def test_each_kind_of_build_has_its_own_folder():
    kinds = [(True, "cpu"), (True, "NVIDIA X"), (False, "cpu"), (False, "NVIDIA X")]
    assert [build.build_folder(*kind).name for kind in kinds] == ["fast", "fast", "cpu", "gpu"]


def test_fingerprint_follows_the_package_the_device_and_the_plot_style(root, monkeypatch):
    prints = [build.fingerprint("cpu", root)]
    assert build.fingerprint("cpu", root) == prints[0]
    prints.append(build.fingerprint("NVIDIA X", root))
    for name in ("src/package/loops.py", "constraints.txt", "docs/figures.mplstyle"):
        (root / name).write_text("changed")
        prints.append(build.fingerprint("cpu", root))
    (root / "src" / "package" / "new.py").touch()
    prints.append(build.fingerprint("cpu", root))
    monkeypatch.setattr(build.importlib.metadata, "version", lambda name: "0.0.1")
    prints.append(build.fingerprint("cpu", root))
    assert len(set(prints)) == len(prints)


def test_fingerprint_ignores_what_running_leaves_in_src(root):
    before = build.fingerprint("cpu", root)
    for name in ("package/__pycache__/loops.pyc", "package.egg-info/PKG-INFO"):
        (root / "src" / name).parent.mkdir()
        (root / "src" / name).touch()
    assert build.fingerprint("cpu", root) == before


def test_prepare_keeps_the_output_of_pages_that_stand_and_nothing_else(root, tmp_path):
    folder = tmp_path / "build"
    build.prepare(folder, "same", root)
    gallery = folder / "source" / "auto_gallery"
    for path in (
        gallery / "plot_a.py.md5",
        gallery / "plot_gone.rst",
        gallery / "images" / "a.png",
        folder / "source" / "old.rst",
        folder / "html" / "index.html",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    build.prepare(folder, "same", root)
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept == {
        "fingerprint",
        "source/index.rst",
        "source/auto_gallery/plot_a.py.md5",
        "source/auto_gallery/images/a.png",
    }
    build.prepare(folder, "another", root)
    assert not gallery.exists()


@pytest.mark.parametrize(
    ("planted", "what"),
    [
        ("saved to /home/someone/project/model.onnx", "the path /home/someone/"),
        ("Traceback (most recent call last):\n  ...", "a traceback"),
        ("100%|####| 10/10 [00:01&lt;00:00, 9.87it/s]", "a progress bar"),
        ("12%| 1/8 [00:02&lt;?, 2.10s/it]", "a progress bar"),
        ("cache.py:3: FutureWarning: will change", "a Python warning"),
        ("\x1b[31mred\x1b[0m", "a terminal colour"),
        ("&lt;generator object stream at 0x7ff6fa0c1890&gt;", "an object's address"),
    ],
)
def test_debris_in_a_page_is_found(tmp_path, planted, what):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "plot_a.html").write_text(f"<p>fine</p>\n<pre>{planted}</pre>")
    (found,) = build.check_html(tmp_path, ["/home/someone/"])
    assert found.startswith(f"pages/plot_a.html:2: {what}: ... ")


def test_clean_page_passes_the_check(tmp_path):
    (tmp_path / "index.html").write_text("<p>12 tokens/s, a Warning, in home/someone/ and at 0x10</p>")
    assert build.check_html(tmp_path, ["/home/someone/"]) == []


def test_private_paths_name_this_project_and_no_whole_disk():
    assert f"{ROOT.resolve()}/" in build.private_paths()
    assert "//" not in build.private_paths()


def test_debris_fails_the_build(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "find_device", lambda: "cpu")
    monkeypatch.setattr(build, "build_folder", lambda fast, device: build.DOCS / "_build" / "test")
    monkeypatch.setattr(build, "prepare", lambda *arguments: None)
    monkeypatch.setattr(build, "check_html", lambda *arguments: ["plot_a.html:1: a traceback"])
    monkeypatch.setattr(build.subprocess, "run", fake := FakeSphinx())
    assert build.main(["--fast", "-j", "2"]) == 1
    assert "a traceback" in capsys.readouterr().out
    assert fake.environment["UNITTEST_GOING"] == "1"
    assert fake.environment["TQDM_DISABLE"] == "1"
    assert fake.command[1:5] == ["-m", "sphinx", "-b", "html"]
    assert {"-W", "-j", "2"} <= set(fake.command)
    fake.returncode = 2
    assert build.main([]) == 2
    assert fake.environment["UNITTEST_GOING"] == os.environ.get("UNITTEST_GOING", "0")


class FakeSphinx:
    returncode = 0

    def __call__(self, command, env):
        self.command, self.environment = command, env
        return self


def test_nox_says_of_each_session_what_it_does():
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    sessions = {node.name: ast.get_docstring(node) for node in tree.body if getattr(node, "decorator_list", None)}
    assert {"docs", "tests", "gallery", "lint"} <= set(sessions)
    assert all(line and "\n" not in line for line in sessions.values())


def test_pages_are_listed_under_their_sections():
    def thumbnail(page):
        opened = '.. raw:: html\n\n    <div class="sphx-glr-thumbcontainer">\n\n'
        return f"{opened}  :doc:`/auto_gallery/{Path(page).stem}`\n\n.. raw:: html\n\n    </div>\n\n"

    listed = "".join(map(thumbnail, book.PAGES))
    before = (
        'Pages\n=====\n\n.. raw:: html\n\n    <div class="sphx-glr-thumbnails">\n\n.. thumbnail-parent-div-open\n\n'
    )
    after = ".. thumbnail-parent-div-close\n\n.. raw:: html\n\n    </div>\n\n.. toctree::\n"
    book.in_sections(None, "auto_gallery/index", content := [before + listed + after])
    found = re.findall(r"^(.+)\n=+$|auto_gallery/(plot_\w+)`", content[0], flags=re.MULTILINE)
    expected = [
        "Pages",
        *(n for title, pages in book.SECTIONS.items() for n in [title, *(Path(p).stem for p in pages)]),
    ]
    assert [title or page for title, page in found] == expected
    assert content[0].count("<div") == content[0].count("</div>")
    assert content[0].endswith(".. toctree::\n")
