"""The site's build: the order of the pages, which build goes where, what makes a page run again, what HTML may show."""

import ast
import os
import re
import shutil
from pathlib import Path
from textwrap import dedent

import build
import pytest
from page_list import face, listed
from recorded import page_names

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "gallery" / "index.rst"


@pytest.fixture
def root(tmp_path):
    """A small project: one module, two pages, of which one uses it, the text of the site."""
    files = {
        "src/decodeloop/__init__.py": "from decodeloop.loops import run\n",
        "src/decodeloop/loops.py": "def run():\n    return 1\n",
        "gallery/plot_a.py": "import decodeloop\n\ndecodeloop.run()\n",
        "gallery/plot_b.py": "print()\n",
        "gallery/index.rst": "",
        "gallery/.cache/plot_c.py": "print()\n",
        "docs/index.rst": "",
        "constraints.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copy2(ROOT / "docs" / "figures.mplstyle", tmp_path / "docs")
    return tmp_path


def test_every_page_is_listed_once():
    assert sorted(re.findall(r"^   (plot_\w+): ", INDEX.read_text(), flags=re.MULTILINE)) == page_names()


def test_a_listed_page_may_be_described_in_several_lines():
    lines = ["plot_a: What a", "   graph is: a file.", "", "plot_b: One line."]
    assert listed(lines) == {"plot_a": "What a graph is: a file.", "plot_b": "One line."}


@pytest.mark.parametrize("page", page_names())
def test_a_card_has_the_title_of_its_page(page):
    script = ROOT / "gallery" / f"{page}.py"
    title = face(page, script)[0]
    lines = ast.get_docstring(ast.parse(script.read_text())).splitlines()
    assert lines[lines.index(title) - 1] == lines[lines.index(title) + 1] == "=" * len(lines[lines.index(title) + 1])
    assert lines[0] == f".. _l-{page.replace('_', '-')}:"


def test_a_card_shows_the_drawing_of_its_page_else_its_plot(tmp_path):
    plain, drawn = tmp_path / "then" / "plot_a.py", tmp_path / "now" / "plot_a.py"
    for path, image in ((plain, ""), (drawn, ".. image:: /drawings/loop.svg")):
        path.parent.mkdir()
        path.write_text(f'"""\n=====\nWords\n=====\n\n{image}\n"""\n')
    assert face("plot_a", plain, plain.parent) == ("Words", "/auto_gallery/images/thumb/sphx_glr_plot_a_thumb.png")
    assert face("plot_a", plain, drawn.parent) == ("Words", "/drawings/loop.svg")
    assert face("plot_a", drawn, plain.parent) == ("Words", "/drawings/loop.svg")


def test_every_public_name_is_in_the_api_reference():
    decodeloop = pytest.importorskip("decodeloop")
    listed = set(re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.rst").read_text(), flags=re.MULTILINE))
    assert listed == set(decodeloop.__all__)


def test_code_on_the_landing_page_runs(capsys):
    text = (ROOT / "docs" / "index.rst").read_text()
    (code,) = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, flags=re.MULTILINE)
    exec(dedent(code), {})
    assert "def factorial(n):" in capsys.readouterr().out


def test_each_kind_of_build_has_its_own_folder():
    kinds = [(True, "cpu"), (True, "NVIDIA X"), (False, "cpu"), (False, "NVIDIA X")]
    assert [build.build_folder(*kind).name for kind in kinds] == ["fast", "fast", "cpu", "gpu"]


def test_fingerprint_follows_the_machine_and_the_code_of_each_page(root, monkeypatch):
    before = build.fingerprint("cpu", root)
    assert before.keys() == {"machine", "plot_a", "plot_b"}

    def changed():
        now = build.fingerprint("cpu", root)
        return {name for name in before | now if before.get(name) != now.get(name)}

    (root / "src" / "decodeloop" / "loops.py").write_text('def run():\n    """Run."""\n    return 1  # one\n')
    (root / "src" / "decodeloop" / "new.py").touch()
    assert changed() == set()
    (root / "src" / "decodeloop" / "loops.py").write_text("def run():\n    return 2\n")
    assert changed() == {"plot_a"}
    machines = [before["machine"], build.fingerprint("NVIDIA X", root)["machine"]]
    for name in ("constraints.txt", "docs/figures.mplstyle"):
        (root / name).write_text("changed")
        machines.append(build.fingerprint("cpu", root)["machine"])
    monkeypatch.setattr(build.importlib.metadata, "version", lambda name: "0.0.1")
    machines.append(build.fingerprint("cpu", root)["machine"])
    assert len(set(machines)) == len(machines)


def test_prepare_keeps_the_output_of_pages_that_stand_and_nothing_else(root, tmp_path):
    folder, now = tmp_path / "build", {"machine": "m", "plot_a": "1", "plot_b": "1"}
    build.prepare(folder, now, root)
    gallery = folder / "source" / "auto_gallery"
    for path in (
        gallery / "plot_a.py.md5",
        gallery / "plot_b.py.md5",
        gallery / "plot_gone.rst",
        gallery / "images" / "a.png",
        folder / "source" / "old.rst",
        folder / "html" / "index.html",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def kept():
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    stands = {"fingerprint.json", "source/index.rst", "source/auto_gallery/images/a.png"}
    stands |= {"scripts/index.rst", "scripts/plot_a.py", "scripts/plot_b.py"}
    build.prepare(folder, now, root)
    assert kept() == stands | {"source/auto_gallery/plot_a.py.md5", "source/auto_gallery/plot_b.py.md5"}
    build.prepare(folder, now | {"plot_a": "2"}, root)
    assert kept() == stands | {"source/auto_gallery/plot_b.py.md5"}
    build.prepare(folder, now | {"machine": "n"}, root)
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


def test_a_notebook_with_an_image_that_was_not_converted_fails_the_check(tmp_path):
    (tmp_path / "_downloads" / "0").mkdir(parents=True)
    for name, text in {"plot_a": "<img src=data:image/svg+xml>", "plot_b": ".. image:: /drawings/loop.svg"}.items():
        (tmp_path / "_downloads" / "0" / f"{name}.ipynb").write_text(text)
    (found,) = build.check_html(tmp_path, [])
    assert found == "_downloads/0/plot_b.ipynb: an image that Jupyter cannot show"


def test_private_paths_name_this_project_and_no_whole_disk(monkeypatch):
    monkeypatch.setattr(build, "ROOT", Path("/home/someone/R&D [1]"))
    private = build.private_paths()
    assert {"/home/someone/R&D [1]/", "/home/someone/R&amp;D [1]/", "/home/someone/R%26D%20%5B1%5D/"} <= set(private)
    assert "//" not in private


def test_debris_fails_the_build(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "find_device", lambda: "cpu")
    monkeypatch.setattr(build, "build_folder", lambda fast, device: build.DOCS / "_build" / "test")
    monkeypatch.setattr(build, "fingerprint", lambda device: {})
    monkeypatch.setattr(build, "prepare", lambda *arguments: None)
    monkeypatch.setattr(build, "check_html", lambda *arguments: ["plot_a.html:1: a traceback"])
    monkeypatch.setattr(build, "write_markdown", lambda *arguments: None)
    monkeypatch.setattr(build.subprocess, "run", fake := FakeSphinx())
    assert build.main(["--fast", "-j", "2"]) == 1
    assert "a traceback" in capsys.readouterr().out
    assert fake.environment["UNITTEST_GOING"] == "1"
    assert fake.environment["TQDM_DISABLE"] == "1"
    assert fake.command[1:5] == ["-m", "sphinx", "-b", "html"]
    assert {"-W", "-j", "2"} <= set(fake.command)
    assert build.main(["--only", "plot_a.py"]) == 1  # what other pages show of it may not be there: no -W
    assert r"sphinx_gallery_conf.filename_pattern=/plot_a\.py" in fake.command
    assert "-W" not in fake.command
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
