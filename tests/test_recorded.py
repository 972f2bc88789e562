"""Recorded runs: what is kept of a page, when a record is refused, and what is said when a page has changed since."""

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import decodeloop

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import build  # noqa: E402
import measured  # noqa: E402
import measured_on  # noqa: E402
import record  # noqa: E402
import recorded  # noqa: E402

PAGES = ["plot_a", "plot_a_b"]  # one name begins with the other
FACTS = {
    **{"device": "NVIDIA X", "mode": "gpu", "provider": "CUDAExecutionProvider", "commit": "abc", "cpu": "C"},
    **{"cores": 8, "date": "2026-01-01T00:00Z", "driver": "1", "cuda": "13", "torch": "2", "transformers": "5"},
    **{"onnxruntime": "1", "onnxruntime_package": "onnxruntime-gpu", "figures": {"loop (tokens/s)": 1234.5}},
}


def run_page(folder: Path, page: str, facts: dict = FACTS, script: str = "print()\n") -> None:
    """What Sphinx-Gallery leaves of a page that it has run."""
    from PIL import Image

    (folder / "images" / "thumb").mkdir(parents=True, exist_ok=True)
    texts = {".py": script, ".rst": f"{page}\n", ".ipynb": "{}", ".py.md5": hashlib.md5(script.encode()).hexdigest()}
    texts |= {".cost.json": '{"time": 12.5, "memory": 2048.0}', measured.FACTS: json.dumps(facts)}
    for suffix, text in texts.items():
        (folder / f"{page}{suffix}").write_text(text)
    for name in (f"sphx_glr_{page}_001.png", f"sphx_glr_{page}_001_2_00x.png", f"thumb/sphx_glr_{page}_thumb.png"):
        Image.new("RGB", (64, 64)).save(folder / "images" / name, compress_level=0)


@pytest.fixture
def project(tmp_path):
    """A project with two pages, their run in ``run``, recorded for the device "x"."""
    for page in PAGES:
        (tmp_path / "gallery").mkdir(exist_ok=True)
        (tmp_path / "gallery" / f"{page}.py").write_text("print()\n")
        run_page(tmp_path / "run", page)
    (tmp_path / "src" / "package").mkdir(parents=True)
    (tmp_path / "src" / "package" / "loops.py").write_text("one\n")
    (tmp_path / "gallery" / "GALLERY_HEADER.rst").write_text("Pages\n=====\n")
    for page in PAGES:
        recorded.add_page(page, tmp_path / "run", tmp_path / "records" / "x", tmp_path)
    return tmp_path


def test_a_record_holds_a_page_and_no_other_ones_files(project):
    names = [path.name for path in recorded.page_files("plot_a", project / "run")]
    assert names == [
        *["plot_a.py", "plot_a.py.md5", "plot_a.rst", "plot_a.ipynb", "plot_a.cost.json", "plot_a.measured.json"],
        *["sphx_glr_plot_a_001.png", "sphx_glr_plot_a_001_2_00x.png", "sphx_glr_plot_a_thumb.png"],
    ]


def test_images_are_made_smaller_and_nothing_else_changes(project):
    from PIL import Image

    for path in (project / "run").rglob("*"):
        if path.is_file():
            kept = project / "records" / "x" / path.relative_to(project / "run")
            if path.suffix == ".png":
                assert kept.stat().st_size < path.stat().st_size
                assert Image.open(kept).tobytes() == Image.open(path).tobytes()
            else:
                assert kept.read_bytes() == path.read_bytes()


def test_recording_one_page_again_leaves_the_others(project):
    record_of_x = project / "records" / "x"
    before = {path: path.read_bytes() for path in record_of_x.rglob("*plot_a_b*") if path.is_file()}
    run_page(project / "run", "plot_a", script="print('new')\n")
    (project / "run" / "images" / "sphx_glr_plot_a_001.png").unlink()
    recorded.add_page("plot_a", project / "run", record_of_x, project)
    assert before == {path: path.read_bytes() for path in record_of_x.rglob("*plot_a_b*") if path.is_file()}
    assert (record_of_x / "plot_a.py").read_text() == "print('new')\n"
    assert not (record_of_x / "images" / "sphx_glr_plot_a_001.png").exists()


def test_unknown_device_lists_the_recorded_ones(project):
    with pytest.raises(recorded.RecordError, match=r"no run is recorded for 'y'\. Recorded devices: x\."):
        recorded.read_record("y", PAGES, project / "records")
    with pytest.raises(recorded.RecordError, match=r"Recorded devices: none yet: nox -s record makes one"):
        recorded.read_record("y", PAGES, project / "nowhere")


def truncate(folder):
    (folder / "plot_a.rst").write_text("")


def remove_image(folder):
    (folder / "images" / "sphx_glr_plot_a_001.png").unlink()


def remove_manifest(folder):
    (folder / "plot_a.record.json").unlink()


def break_manifest(folder):
    (folder / "plot_a.record.json").write_text('{"package"')


def shorten_manifest(folder):
    path = folder / "plot_a.record.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["plot_a.rst"]
    path.write_text(json.dumps(manifest))


def point_outside(folder):
    path = folder / "plot_a.record.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../gallery/plot_a.py"] = "0"
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, r"plot_a\.rst: changed"),
        (remove_image, r"sphx_glr_plot_a_001\.png: missing"),
        (remove_manifest, r"plot_a: not recorded"),
        (break_manifest, r"plot_a\.record\.json: not a manifest"),
        (shorten_manifest, r"plot_a\.rst: not listed"),
        (point_outside, r"plot_a\.py: outside the record"),
    ],
)
def test_damaged_record_is_refused_with_what_is_wrong(project, damage, what):
    damage(project / "records" / "x")
    with pytest.raises(
        recorded.RecordError, match=rf"the record of x is damaged or incomplete:\n  .*{what}\nRestore .* plot_a on that"
    ):
        recorded.read_record("x", PAGES, project / "records")


def test_interrupted_recording_leaves_a_page_that_counts_as_missing(project, monkeypatch):
    monkeypatch.setattr(recorded, "write_json", lambda path, facts: None)
    recorded.add_page("plot_a", project / "run", project / "records" / "x", project)
    with pytest.raises(recorded.RecordError, match="plot_a: not recorded"):
        recorded.read_record("x", PAGES, project / "records")


def test_what_has_changed_since_is_named(project):
    manifests = recorded.read_record("x", PAGES, project / "records")

    def changes():
        return recorded.changes("x", manifests, project / "records", project)

    assert changes() == {}
    (project / "gallery" / "plot_a.py").write_text("print(1)\n")
    assert changes() == {"plot_a": "Recorded at commit abc; ``gallery/plot_a.py`` has changed since."}
    (project / "src" / "package" / "loops.py").write_text("two\n")
    assert changes() == {
        "plot_a": "Recorded at commit abc; ``gallery/plot_a.py`` and the package have changed since.",
        "plot_a_b": "Recorded at commit abc; the package has changed since.",
    }


@pytest.mark.parametrize("recorded_first", [True, False])
def test_a_recorded_and_a_run_page_never_meet(project, monkeypatch, recorded_first):
    """In both orders, and after a change in the package: each build has its own folder and its own page."""
    docs = project / "docs"
    for name in ("index.rst", "figures.mplstyle"):
        docs.mkdir(exist_ok=True)
        (docs / name).write_text("")
    (project / "constraints.txt").write_text("")
    for module, name, value in [
        *[(build, "DOCS", docs), (build, "PAGES", [f"{page}.py" for page in PAGES]), (recorded, "ROOT", project)],
        (build, "read_record", lambda device, pages: recorded.read_record(device, pages, project / "records")),
        (build, "changes", lambda device, found: recorded.changes(device, found, project / "records", project)),
        (build, "lay_out", lambda *arguments: recorded.lay_out(*arguments, project / "records")),
    ]:
        monkeypatch.setattr(module, name, value)
    prepare = build.prepare
    monkeypatch.setattr(build, "prepare", lambda folder, now, root=project: prepare(folder, now, root))

    def run():
        folder = build.build_folder(False, "cpu")
        build.prepare(folder, build.fingerprint("cpu", project))
        page = folder / "source" / "auto_gallery" / "plot_a.rst"
        page.parent.mkdir(exist_ok=True)
        assert not page.exists() or page.read_text() == "run here\n"
        page.write_text("run here\n")
        return page

    def render():
        folder, lines = build.lay_out_record("x", strict=False)
        return folder / "source" / "auto_gallery" / "plot_a.rst", lines

    (rendered, lines), page = (render(), run()) if recorded_first else (run(), render())[::-1]
    assert (rendered.read_text(), lines, page.read_text()) == ("plot_a\n", [], "run here\n")
    assert (rendered.parents[2] / "scripts" / "plot_a.py").read_text() == "print()\n"
    assert (rendered.parent / "plot_a.zip").exists()

    (project / "src" / "package" / "loops.py").write_text("two\n")
    rendered, lines = render()
    assert lines == [f"{name}: Recorded at commit abc; the package has changed since." for name in PAGES]
    assert (rendered.parent / "plot_a.changed").exists()
    assert page.read_text() == "run here\n"  # rendering the record has not touched it
    build.prepare(page.parents[2], build.fingerprint("cpu", project))
    assert not page.exists()  # and it is run anew, for the package has changed
    with pytest.raises(recorded.RecordError, match="not of what is here now:\nplot_a: Recorded at commit abc"):
        build.lay_out_record("x", strict=True)


def test_a_page_that_failed_or_ran_elsewhere_is_not_recorded(project):
    folder = project / "run"
    assert recorded.check_run("plot_a", folder)["device"] == "NVIDIA X"
    run_page(folder, "plot_a", FACTS | {"provider": "CPUExecutionProvider"})
    with pytest.raises(recorded.RecordError, match="plot_a: onnxruntime ran on CPUExecutionProvider, not on CUDA"):
        recorded.check_run("plot_a", folder)
    (folder / "plot_a.py.md5").unlink()
    with pytest.raises(recorded.RecordError, match=r"plot_a: it failed, or .*: there is no plot_a\.py\.md5\."):
        recorded.check_run("plot_a", folder)


def test_names_of_records():
    assert recorded.slug({"device": "NVIDIA H100 80GB HBM3", "cores": 16}) == "nvidia-h100-80gb-hbm3"
    assert recorded.slug({"device": "cpu", "cores": 2}) == "cpu-2-cores"


def test_recording_without_a_gpu_says_so(monkeypatch, capsys):
    monkeypatch.setattr(build, "find_device", lambda: "cpu")
    with pytest.raises(SystemExit):
        record.main([])
    assert "no GPU here (torch sees none)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        record.main(["plot_nothing"])
    assert "no such page: plot_nothing. Pages: plot_generate, " in capsys.readouterr().err


def test_an_earlier_runs_pictures_are_not_recorded(project, monkeypatch, capsys):
    """A page that draws fewer pictures than when it was run before: the old ones go before it runs again."""
    folder = project / "build"
    gallery = folder / "source" / "auto_gallery"
    run_page(gallery, "plot_a", script="an earlier run")
    (gallery / "images" / "sphx_glr_plot_a_002.png").write_bytes(b"old")
    for module, name, value in [
        *[(build, "ROOT", project), (build, "find_device", lambda: "NVIDIA X"), (record, "STEMS", PAGES)],
        *[(build, "build_folder", lambda fast, device: folder), (build, "prepare", lambda *arguments: None)],
        *[(measured_on, "write_page", lambda source: None), (record, "RECORDS", project / "records")],
        (record.subprocess, "run", lambda *arguments, **options: run_page(gallery, "plot_a")),
    ]:
        monkeypatch.setattr(module, name, value)
    assert record.main(["plot_a"]) == 0
    assert "plot_a: 12 s, 2048 MiB of GPU memory, CUDAExecutionProvider" in capsys.readouterr().out
    images = {path.name for path in (project / "records" / "nvidia-x" / "images").glob("*.png")}
    assert images == {"sphx_glr_plot_a_001.png", "sphx_glr_plot_a_001_2_00x.png"}


def test_unknown_record_ends_the_build_before_it_begins(capsys):
    with pytest.raises(SystemExit):
        build.main(["--recorded", "abacus"])
    assert "no run is recorded for 'abacus'. Recorded devices: " in capsys.readouterr().err


def test_closing_call_is_kept_beside_the_page(tmp_path):
    facts = decodeloop.provenance(device="cpu", figures={"loop (tokens/s)": 3})
    variables = {"target_file": str(tmp_path / "plot_a.py"), "example_globals": {"___": facts}}
    assert measured.keep_facts(None, variables, {}) == ""
    assert json.loads((tmp_path / "plot_a.measured.json").read_text()) == facts
    variables = {"target_file": str(tmp_path / "plot_b.py"), "example_globals": {"___": 3}}
    measured.keep_facts(None, variables, {})
    assert not (tmp_path / "plot_b.measured.json").exists()


def test_figures_stand_beside_the_recorded_ones(project):
    cpu = FACTS | {"device": "cpu", "mode": "cpu", "figures": {"loop (tokens/s)": 1.5, "limit (tokens/s)": 120}}
    run_page(project / "cpu", "plot_a", cpu)
    (project / "cpu" / "plot_a.cost.json").write_text('{"time": 30.25, "memory": 0.0}')
    runs = measured.read_runs("plot_a", project / "cpu", project / "records")
    assert list(runs) == ["this run (cpu)", "NVIDIA X, recorded"]
    text = " ".join(measured.comparison(runs).split())
    assert "* - - this run (cpu) - NVIDIA X, recorded" in text
    assert "* - loop (tokens/s) - 1.50 - 1,234 * - limit (tokens/s) - 120 - –" in text
    assert "* - running time of the page (s) - 30.2 - 12.5 * - most GPU memory (MiB) - – - 2,048" in text


def test_a_recorded_page_is_not_compared_with_itself(project):
    (project / "run" / "RECORDED").touch()
    runs = measured.read_runs("plot_a", project / "run", project / "records")
    assert list(runs) == ["NVIDIA X, recorded"]
    run_page(project / "run", "plot_a", FACTS | {"device": "cpu"})
    assert next(iter(measured.read_runs("plot_a", project / "run", project / "records"))) == "CPU, 8 cores, recorded"


def test_comparison_and_notice_are_put_into_the_page(project, monkeypatch):
    gallery = project / "source" / "auto_gallery"
    run_page(gallery, "plot_a")
    end = ".. rst-class:: sphx-glr-timing\n\n   **Estimated memory usage:**  5 MB\n\n"
    app = SimpleNamespace(srcdir=project / "source")
    measured.beside(app, "auto_gallery/plot_a", content := [f"text\n{end}"])
    assert content[0].startswith("text\n.. list-table:: The figures of this page")
    assert content[0].endswith("**Most GPU memory in use, above what was when it began:** 5 MiB\n\n")
    measured.beside(app, "auto_gallery/plot_a", without := [f"text\n{end.replace('5 MB', '0 MB')}"])
    assert "memory in use" not in without[0]
    assert "memory usage" not in without[0]
    (gallery / "plot_a.changed").write_text("It has changed.")
    measured.beside(app, "auto_gallery/plot_a", content := [f"text\n{end}"])
    assert content[0].startswith(".. warning::\n\n   It has changed.\n\ntext\n")
    measured.beside(app, "index", content := [end])
    assert content == [end]


def test_page_of_all_records(project):
    run = project / "records" / "x"
    for name in ("plot_generate", "plot_engines"):
        run_page(run, name, FACTS | {"figures": {"loop (tokens/s)": 50, "limit (tokens/s)": 80, "share": 0.6}})
    measured_on.write_page(project / "source", project / "records")
    text = (project / "source" / "measured_on.rst").read_text()
    assert ":ref:`l-plot-generate`" in text
    assert ":ref:`l-plot-onnx-speed`" not in text  # it has no figures here
    assert (project / "source" / "measured_on_plot_engines.png").stat().st_size > 1000
    assert "NVIDIA X" in text
    measured_on.write_page(project / "source", project / "nowhere")
    assert "No run has been recorded yet." in (project / "source" / "measured_on.rst").read_text()


def test_most_memory_of_a_cell(monkeypatch):
    values = iter([100 * 2**20, *[300 * 2**20] * 50])
    monkeypatch.setattr(measured, "gpu_memory", lambda: next(values))
    assert measured.PeakMemory()(lambda: "result") == (300, "result")
    monkeypatch.setattr(measured, "gpu_memory", lambda: None)
    assert measured.PeakMemory()(lambda: "result") == (0, "result")


def test_committed_records_are_whole():
    pages = [Path(page).stem for page in record.PAGES]
    for device in recorded.recorded_devices():
        recorded.read_record(device, pages)
        for page in pages:
            facts = json.loads((measured.RECORDS / device / f"{page}{measured.FACTS}").read_text())
            assert facts["mode"] == ("cpu" if facts["device"] == "cpu" else "gpu")
            if facts["mode"] == "gpu":
                assert facts["provider"] in (None, "CUDAExecutionProvider")
        assert sum(f.stat().st_size for f in (measured.RECORDS / device).rglob("*") if f.is_file()) < recorded.LARGEST
