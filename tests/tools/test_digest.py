"""What a page's digest follows: what changes it, what does not, and that it tells the pages of this book apart."""

from pathlib import Path
from textwrap import dedent

import pytest
from digest import Package

ROOT = Path(__file__).parents[2]

FILES = {
    "__init__.py": "from package.loops import run, stream\nfrom package.choose import Sampler\nimport package.wide\n",
    "loops.py": '''
        """Loops."""
        import json as encoding
        from package.choose import Sampler, greedy
        from package import limits
        from .cache import Cache

        KEPT = 4

        def run(model, sampler: Sampler | None = None, steps=limits.MOST) -> Sampler:
            """Run."""
            from package.lazy import late
            choose = sampler.start if isinstance(sampler, (int, Sampler)) else greedy
            return late(choose, Cache(KEPT))

        def stream(model):
            return encoding.dumps(model)
        ''',
    "choose.py": """
        from package.loops import KEPT

        def greedy(): return 1

        class Sampler:
            def start(self): return KEPT
        """,
    "limits.py": "MOST, LEAST = 10, 1\nTABLE = {}\nTABLE['a'] = 1\n",
    "lazy.py": "def late(*args): return args\ndef unused(): return 2\n",
    "cache.py": """
        import registry

        class Base:
            pass

        class Cache(Base):
            def length(self):
                return helper(self)

        def helper(cache): return 0

        registry.register("cache", Cache)
        if registry:
            def either(): return 1
        else:
            def either(): return 2
        """,
    "weights.py": 'from pathlib import Path\nWEIGHTS = Path(__file__).parent / "data"\n',
    "wide.py": "from package.lazy import unused\nwide = 1\n",
    "data/model.bin": "weights",
    "data/README.md": "prose",
}


@pytest.fixture
def digest(tmp_path):
    """The digest of a page with the given code, in a package of FILES with changes: ``{file: (old, new)}``."""

    def digest(code: str, **changes: tuple[str, str]) -> str:
        for name, text in FILES.items():
            old, new = changes.get(name.partition(".")[0].replace("/", "_"), ("", ""))
            assert old in dedent(text)
            path = tmp_path / "package" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text).replace(old, new, 1))
        (tmp_path / "page.py").write_text(code)
        return Package(tmp_path / "package").digest(tmp_path / "page.py")

    return digest


RUN = "import package\npackage.run(1)\n"


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a function that it names", {"loops": ("return late(choose", "return late(run, choose")}),
        ("a default", {"limits": ("10", "11")}),
        ("what an import in a function brings", {"lazy": ("return args", "return args[0]")}),
        ("a constant", {"loops": ("KEPT = 4", "KEPT = 5")}),
        ("a function of another module", {"choose": ("return 1", "return 2")}),
        ("a method", {"cache": ("return helper(self)", "return helper(self) + 1")}),
        ("what a method calls", {"cache": ("return 0", "return 1")}),
        ("a base class", {"cache": ("    pass", "    kept = True")}),
        ("a registration", {"cache": ('"cache", Cache', '"cached", Cache')}),
        ("an annotation's text", {"loops": ("Sampler | None", "Sampler")}),
        ("its removal", {"lazy": ("def late", "def later")}),
    ],
)
def test_a_change_in_what_a_page_runs_changes_its_digest(digest, what, change):
    assert digest(RUN, **change) != digest(RUN), what


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a docstring", {"loops": ('"""Run."""', '"""Run, and walk."""')}),
        ("a module's docstring", {"loops": ('"""Loops."""', '"""Loop."""')}),
        ("a comment", {"lazy": ("def late", "# late\ndef late")}),
        ("layout", {"lazy": ("return args", "return (\n    args\n)")}),
        ("a class in annotations and instance checks alone", {"choose": ("return KEPT", "return KEPT + 1")}),
        ("another function of a module", {"lazy": ("return 2", "return 3")}),
        ("another public function", {"loops": ("encoding.dumps(model)", "encoding.dumps(model, indent=1)")}),
        ("a file that it does not read", {"data_model": ("weights", "others")}),
    ],
)
def test_a_change_in_anything_else_does_not(digest, what, change):
    assert digest(RUN, **change) == digest(RUN), what


@pytest.mark.parametrize(
    "code",
    [
        "import package\npackage.Sampler()\n",
        "import package as p\nx = [p.Sampler]\n",
        "from package import Sampler\nSampler().start()\n",
        "def later():\n    from package.choose import Sampler as Chosen\n    return Chosen\n",
        "import package.choose\npackage.choose.Sampler.start\n",
        "import package.choose as c\ngetattr(c, 'Sam' + 'pler')\n",  # a module by itself: all of it
        "import package\nvars(package)\n",
    ],
)
def test_all_ways_to_name_a_thing_lead_to_it(digest, code):
    assert digest(code, choose=("return KEPT", "return KEPT + 1")) != digest(code)
    assert digest(code, loops=("KEPT = 4", "KEPT = 5")) != digest(code)  # and to what it uses in turn


def test_a_definition_that_moves_to_another_module_stays_what_it_is(digest):
    code = "import package\npackage.stream(1)\n"
    body = "def stream(model):\n    return encoding.dumps(model)\n"
    moved = digest(
        code,
        __init__=(
            "from package.loops import run, stream",
            "from package.loops import run\nfrom package.lazy import stream",
        ),
        loops=(body, ""),
        lazy=("def late", f"import json as encoding\n{body}def late"),
    )
    assert moved == digest(code)
    assert digest(code, loops=("import json as", "import simplejson as")) != digest(code)  # another library's name


def test_a_statement_that_binds_and_does_more_counts_with_its_module(digest):
    code = "from package.cache import helper\nhelper(1)\n"
    assert digest(code, cache=("either(): return 2", "either(): return 3")) != digest(code)
    code = "from package.limits import TABLE\nTABLE\n"
    assert digest(code, limits=("TABLE['a'] = 1", "TABLE['a'] = 2")) != digest(code)


def test_a_file_counts_where_its_folder_is_named_and_prose_never(digest):
    code = "from package.weights import WEIGHTS\nWEIGHTS\n"
    assert digest(code, data_model=("weights", "others")) != digest(code)
    assert digest(code, data_README=("prose", "verse")) == digest(code)


def test_a_name_that_is_no_more_is_a_change(digest):
    code = "from package.lazy import unused\nunused()\n"
    assert digest(code, lazy=("def unused(): return 2", "")) != digest(code)


@pytest.fixture(scope="module")
def book():
    return Package(ROOT / "src" / "decodeloop")


def test_every_public_name_leads_to_a_definition(book, tmp_path):
    decodeloop = pytest.importorskip("decodeloop")
    for name in decodeloop.__all__:
        (tmp_path / "page.py").write_text(f"import decodeloop\ndecodeloop.{name}\n")
        assert any(local == name for _, local in book.reached(tmp_path / "page.py") & book.definitions.keys()), name


def test_a_change_in_sampling_marks_the_pages_that_sample(book):
    """Of the book's own pages: some draw tokens, and all that decode can take the likeliest."""
    scripts = {path.stem: book.reached(path) for path in (ROOT / "gallery").glob("plot_*.py")}
    named = {page: {name for _, name in reached} for page, reached in scripts.items()}
    draw = {"plot_guess_ahead", "plot_many_gpus_traps", "plot_right_answers", "plot_sampling", "plot_valid_answers"}
    assert {page for page, names in named.items() if "Sampler" in names} == draw
    assert {"export_onnx", "greedy", "load", "provenance"} <= named["plot_export"]
    assert "quantize_onnx" in named["plot_precision"] - named["plot_export"]
