"""The landing page's figure: which record it shows, and what share of which limit."""

import hero
import pytest
from recorded import write_json

FACTS = {
    **{"device": "NVIDIA X", "cores": 8, "date": "2026-01-02T00:00Z", "commit": "abc"},
    **{"model": ["bundled (trained weights)", "microsoft/phi-1_5 (random weights)"]},
}
RUNGS = {"eager (tokens/s)": 5.0, "compiled (tokens/s)": 60.0, "limit (tokens/s)": 100.0}


@pytest.fixture
def record(tmp_path):
    def write(name, page, figures, **facts):
        (tmp_path / "gallery").mkdir(exist_ok=True)
        (tmp_path / "gallery" / f"{page}.py").touch()
        folder = tmp_path / "docs" / "recorded" / name / page
        folder.mkdir(parents=True)
        facts = FACTS | facts | {"figures": figures}
        write_json(folder / "record.json", {"facts": facts, "time": 1, "memory": 0, "code": "", "files": {}})

    return write


def test_shares_are_of_the_large_models_limit():
    both = RUNGS | {"phi-1_5: generate (tokens/s)": 10.0, "phi-1_5: limit (tokens/s)": 40.0}
    assert hero.full_size(both) == ({"generate": 10.0}, {"generate": 40.0})
    assert hero.full_size(RUNGS) == ({"eager": 5.0, "compiled": 60.0}, {"eager": 100.0, "compiled": 100.0})


def test_fewer_bits_have_their_own_limit_or_no_bar():
    figures = RUNGS | {"ONNX, int4 (tokens/s)": 150.0, "ONNX, int8 (tokens/s)": 90.0, "limit of int4 (tokens/s)": 300.0}
    speeds, limits = hero.full_size(figures)
    assert limits == {"eager": 100.0, "compiled": 100.0, "ONNX, int4": 300.0}
    assert speeds.keys() == limits.keys()


def test_a_gpu_is_shown_before_a_cpu_and_named_with_its_date(tmp_path, record):
    record("cpu-2-cores", "plot_limit", {"eager (tokens/s)": 1.0, "limit (tokens/s)": 2.0}, device="cpu")
    record("nvidia-x", "plot_engines", RUNGS)
    hero.write_hero(tmp_path, tmp_path)
    text = " ".join((tmp_path / "hero.inc").read_text().split())
    assert "*compiled* is 12.0 times as fast as *eager*" in text
    assert "microsoft/phi-1_5 (random weights)" in text
    assert "NVIDIA X, 2026-01-02: :ref:`l-plot-engines`" in text
    assert "eager 5%, compiled 60%" in text
    assert (tmp_path / "hero.png").stat().st_size > 1000


def test_without_a_record_the_landing_page_says_so(tmp_path, record):
    record("cpu-2-cores", "plot_limit", {"other (ms)": 1.0}, device="cpu")
    hero.write_hero(tmp_path, tmp_path)
    assert "No run has been recorded yet." in (tmp_path / "hero.inc").read_text()
    assert not (tmp_path / "hero.png").exists()
