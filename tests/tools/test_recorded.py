"""Recorded runs: what is kept of a page, when a record is refused, and what is said when a page has changed since."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import build
import measured
import measured_on
import pytest
import record
import recorded
from digest import Package
from PIL import Image

import decodeloop

ROOT = Path(__file__).parents[2]

PAGES = ["plot_a", "plot_a_b"]  # one name begins with the other
FACTS = {
    **{"device": "NVIDIA X", "mode": "gpu", "provider": "CUDAExecutionProvider", "commit": "abc", "cpu": "C"},
    **{"cores": 8, "date": "2026-01-01T00:00Z", "driver": "1", "cuda": "13", "torch": "2", "transformers": "5"},
    **{"onnxruntime": "1", "onnxruntime_package": "onnxruntime-gpu", "figures": {"loop (tokens/s)": 1234.5}},
}


CODE = "import decodeloop\n\ndecodeloop.run()\n"
RECORD = "docs/recorded/x"  # in the project
OF_THEN = " What this page shows, code and outputs, is of that run."
NAMES = {"decodeloop.run": [{"module": "decodeloop", "name": "run"}, {"module": "torch", "name": "run"}], "torch": []}


def run_page(folder: Path, page: str, facts: dict = FACTS, script: str = CODE) -> None:
    """What Sphinx-Gallery leaves of a page that it has run."""
    (folder / "images" / "thumb").mkdir(parents=True, exist_ok=True)
    texts = {".py": script, ".rst": f"{page}\n", ".ipynb": "{}", ".py.md5": "0", ".codeobj.json": json.dumps(NAMES)}
    texts |= {".cost.json": '{"time": 12.5, "memory": 2048.0}', recorded.FACTS: json.dumps(facts)}
    for suffix, text in texts.items():
        (folder / f"{page}{suffix}").write_text(text)
    for name in (f"sphx_glr_{page}_001.png", f"sphx_glr_{page}_001_2_00x.png", f"thumb/sphx_glr_{page}_thumb.png"):
        Image.new("RGB", (64, 64)).save(folder / "images" / name, compress_level=0)


def write_package(root: Path, code: str) -> None:
    (root / "src" / "decodeloop").mkdir(parents=True, exist_ok=True)
    (root / "src" / "decodeloop" / "__init__.py").write_text(f"def run():\n    return {code}\n")


def code_of(root: Path) -> str:
    return Package(root / "src" / "decodeloop").digest(root / "gallery" / "plot_a.py")


@pytest.fixture
def project(tmp_path):
    """A project with two pages, their run in ``run``, recorded for the device "x"."""
    write_package(tmp_path, "1")
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "index.rst").write_text("Pages\n=====\n")
    for path in ("docs/index.rst", "docs/figures.mplstyle", "constraints.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    for page in PAGES:
        (tmp_path / "gallery" / f"{page}.py").write_text(CODE)
        run_page(tmp_path / "run", page)
        recorded.add_page(page, tmp_path / "run", tmp_path / RECORD, code_of(tmp_path))
    return tmp_path


def read_record(project: Path) -> dict[str, dict]:
    return recorded.read_record("x", project)


def changes(project: Path) -> dict[str, str]:
    return recorded.changes("x", read_record(project), project)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_record_holds_what_a_page_produced_and_no_other_ones_files(project):
    kept = files(project / RECORD / "plot_a")
    assert sorted(kept) == [
        *["images/sphx_glr_plot_a_001.png", "images/sphx_glr_plot_a_001_2_00x.png"],
        *["plot_a.codeobj.json", "plot_a.py", "plot_a.rst", "record.json"],
    ]
    assert json.loads(kept["plot_a.codeobj.json"]) == {"decodeloop.run": NAMES["decodeloop.run"][:1]}
    assert recorded.read_run("x", "plot_a", project) == FACTS | {"time": 12.5, "memory": 2048}


def test_images_are_made_smaller_and_script_and_text_stay(project):
    for name, content in files(project / RECORD / "plot_a").items():
        path = project / "run" / name
        if path.suffix == ".png":
            assert len(content) < path.stat().st_size
            assert Image.open(project / RECORD / "plot_a" / name).tobytes() == Image.open(path).tobytes()
        elif path.suffix in (".py", ".rst"):
            assert content == path.read_bytes()


def test_recording_one_page_again_leaves_the_others(project):
    record_of_x = project / RECORD
    before = files(record_of_x / "plot_a_b")
    run_page(project / "run", "plot_a", script="print('new')\n")
    (project / "run" / "images" / "sphx_glr_plot_a_001.png").unlink()
    recorded.add_page("plot_a", project / "run", record_of_x, code_of(project))
    assert before == files(record_of_x / "plot_a_b")
    assert (record_of_x / "plot_a" / "plot_a.py").read_text() == "print('new')\n"
    assert not (record_of_x / "plot_a" / "images" / "sphx_glr_plot_a_001.png").exists()
    assert sorted(path.name for path in record_of_x.iterdir()) == PAGES


KILLED_AT = """
import os, pathlib, signal, sys
import recorded

writes, last = 0, int(sys.argv[1])

def cut(write):
    def write_half(self, content, *arguments, **options):
        global writes
        writes += 1
        if writes == last:
            write(self, content[: len(content) // 2], *arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, content, *arguments, **options)
    return write_half

pathlib.Path.write_bytes, pathlib.Path.write_text = cut(pathlib.Path.write_bytes), cut(pathlib.Path.write_text)
root = pathlib.Path(sys.argv[2])
recorded.add_page("plot_a", root / "run", root / "docs" / "recorded" / "x", "code")
"""


@pytest.mark.parametrize("first_time", [True, False])
def test_half_a_record_counts_as_none_and_leaves_the_one_before(project, first_time):
    """Killed in the middle of each of the files that it writes."""
    run_page(project / "run", "plot_a", FACTS | {"commit": "def", "date": "later"}, script=CODE + "# anew\n")
    folder, whole = project / RECORD / "plot_a", None if first_time else "abc"
    if first_time:
        shutil.rmtree(folder)
    before = files(folder)
    killed = 0
    while True:
        command = [sys.executable, "-c", KILLED_AT, str(killed + 1), str(project)]
        if subprocess.run(command, cwd=ROOT / "tools" / "site").returncode == 0:
            break
        killed += 1
        assert files(folder) == before
        run = recorded.read_run("x", "plot_a", project)
        assert (run and run["commit"]) == whole
        assert list(read_record(project)) == PAGES[first_time:]
        assert changes(project).get("plot_a", "").startswith("Not recorded on x: " if first_time else "")
        runs = measured.read_runs("plot_a", project / "run", project)
        assert [facts["commit"] for facts in runs.values()] == ["def", whole][: 1 if first_time else 2]
        measured_on.write_page(project, project)
    assert killed == len(before or files(folder))
    assert recorded.read_run("x", "plot_a", project)["commit"] == "def"
    assert sorted(path.name for path in folder.parent.iterdir()) == PAGES  # what was left over has gone


def test_unknown_device_lists_the_recorded_ones(project):
    with pytest.raises(recorded.RecordError, match=r"no run is recorded for 'y'\. Recorded devices: x\."):
        recorded.read_record("y", project)
    with pytest.raises(recorded.RecordError, match=r"Recorded devices: none yet: nox -s record makes one"):
        recorded.read_record("y", project / "nowhere")


def truncate(folder):
    (folder / "plot_a.rst").write_text("")


def remove_image(folder):
    (folder / "images" / "sphx_glr_plot_a_001.png").unlink()


def change_manifest(folder, change):
    manifest = json.loads((folder / "record.json").read_text())
    change(manifest["files"])
    (folder / "record.json").write_text(json.dumps(manifest))


def shorten_manifest(folder):
    change_manifest(folder, lambda files: files.pop("plot_a.rst"))


def point_outside(folder):
    change_manifest(folder, lambda files: files.update({"../../../gallery/plot_a.py": "0"}))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, r"plot_a\.rst: changed"),
        (remove_image, r"sphx_glr_plot_a_001\.png: missing"),
        (shorten_manifest, r"plot_a\.rst: not listed"),
        (point_outside, r"plot_a\.py: outside the record"),
    ],
)
def test_damaged_record_is_refused_with_what_is_wrong(project, damage, what):
    damage(project / RECORD / "plot_a")
    with pytest.raises(
        recorded.RecordError, match=rf"the record of x is damaged:\n  .*{what}\nRestore .* plot_a on that device"
    ):
        read_record(project)


@pytest.mark.parametrize("manifest", [None, "", '{"code"', "[]", "{}"])
def test_page_without_a_manifest_is_not_recorded(project, manifest):
    path = project / RECORD / "plot_a" / "record.json"
    path.unlink() if manifest is None else path.write_text(manifest)
    assert list(read_record(project)) == ["plot_a_b"]
    assert changes(project) == {"plot_a": "Not recorded on x: what this page prints and draws is not shown."}
    shutil.rmtree(project / RECORD / "plot_a_b")
    measured_on.write_page(project, project)
    assert "No run has been recorded yet." in (project / "measured_on.rst").read_text()


def test_what_has_changed_since_is_named(project):
    assert changes(project) == {}
    write_package(project, "1  # one")
    assert changes(project) == {}
    (project / "gallery" / "plot_a.py").write_text("print(1)\n")
    assert changes(project) == {"plot_a": "Recorded at commit abc; ``gallery/plot_a.py`` has changed since." + OF_THEN}
    write_package(project, "2")
    assert changes(project) == {
        "plot_a": "Recorded at commit abc; ``gallery/plot_a.py`` and code that it uses have changed since." + OF_THEN,
        "plot_a_b": "Recorded at commit abc; code that it uses has changed since." + OF_THEN,
    }


@pytest.mark.parametrize("recorded_first", [True, False])
def test_a_recorded_and_a_run_page_never_meet(project, recorded_first):
    """In both orders, and after a change in the package: each build has its own folder and its own page."""

    def run():
        folder = build.build_folder(False, "cpu", project)
        build.prepare(folder, build.fingerprint("cpu", project), project)
        page = folder / "source" / "auto_gallery" / "plot_a.rst"
        page.parent.mkdir(exist_ok=True)
        assert not page.exists() or page.read_text() == "run here\n"
        page.write_text("run here\n")
        return page

    def render():
        folder, lines = build.lay_out_record("x", strict=False, root=project)
        return folder / "source" / "auto_gallery" / "plot_a.rst", lines

    (rendered, lines), page = (render(), run()) if recorded_first else (run(), render())[::-1]
    assert (rendered.read_text(), lines, page.read_text()) == ("plot_a\n", [], "run here\n")
    assert (rendered.parents[2] / "scripts" / "plot_a.py").read_text() == CODE
    assert (rendered.parents[2] / "scripts" / "index.rst").exists()
    assert next(iter(measured.read_runs("plot_a", rendered.parent, project))) == "NVIDIA X, recorded"

    write_package(project, "2")
    rendered, lines = render()
    assert lines == [
        f"{name}: Recorded at commit abc; code that it uses has changed since." + OF_THEN for name in PAGES
    ]
    assert (rendered.parent / "plot_a.changed").exists()
    assert page.read_text() == "run here\n"  # rendering the record has not touched it
    build.prepare(page.parents[2], build.fingerprint("cpu", project), project)
    assert not page.exists()  # and it is run anew, for the package has changed
    with pytest.raises(recorded.RecordError, match="not of what is here now:\nplot_a: Recorded at commit abc"):
        build.lay_out_record("x", strict=True, root=project)


def test_a_page_that_is_not_recorded_is_rendered_as_it_stands(project):
    shutil.rmtree(project / RECORD / "plot_a")
    folder, lines = build.lay_out_record("x", strict=False, root=project)
    assert lines == ["plot_a: Not recorded on x: what this page prints and draws is not shown."]
    assert (folder / "scripts" / "plot_a.py").read_text() == CODE
    assert not (folder / "source" / "auto_gallery" / "plot_a.py").exists()  # so Sphinx-Gallery renders the script
    assert (folder / "source" / "auto_gallery" / "images" / "sphx_glr_plot_a_001.png").exists()
    with pytest.raises(recorded.RecordError, match="plot_a: Not recorded on x"):
        build.lay_out_record("x", strict=True, root=project)


def test_of_several_gpus_only_the_pages_that_take_them_are_asked_for(project):
    shutil.rmtree(project / RECORD / "plot_a")
    for manifest in (project / RECORD).glob("*/record.json"):
        facts = json.loads(manifest.read_text())
        facts["facts"]["gpus"] = 2
        manifest.write_text(json.dumps(facts))
    _, lines = build.lay_out_record("x", strict=True, root=project)
    assert lines == ["plot_a: Not recorded on x: what this page prints and draws is not shown."]
    write_package(project, "2")
    with pytest.raises(recorded.RecordError, match="is not of what is here now:\nplot_a_b: Recorded at commit abc"):
        build.lay_out_record("x", strict=True, root=project)


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
    assert recorded.slug({"device": "NVIDIA H200", "cores": 16, "gpus": 2}) == "2-nvidia-h200"


def test_a_page_that_took_two_gpus_is_shown_beside_the_others(project):
    (project / RECORD / "plot_a").rename(project / "plot_a")
    assert "plot_a" in changes(project)
    (project / RECORD).with_name("2-y").mkdir()
    (project / "plot_a").rename((project / RECORD).with_name("2-y") / "plot_a")
    assert changes(project) == {}
    recorded.lay_out("x", read_record(project), {}, project / "build", project)
    assert (project / "build" / "source" / "auto_gallery" / "plot_a.rst").read_text() == "plot_a\n"
    assert recorded.holder("cpu-2-cores", "plot_a", project) == "cpu-2-cores"


def test_recording_without_a_gpu_says_so(monkeypatch, capsys):
    monkeypatch.setattr(build, "find_device", lambda: "cpu")
    with pytest.raises(SystemExit):
        record.main([])
    assert "no GPU here (torch sees none)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        record.main(["plot_nothing"])
    assert "no such page: plot_nothing. Pages: plot_batch, " in capsys.readouterr().err


def test_a_busy_machine_is_not_recorded(monkeypatch, capsys):
    monkeypatch.setattr(build, "find_device", lambda: "cpu")
    monkeypatch.setattr(record, "taken_cores", lambda: 1.02)
    with pytest.raises(SystemExit):
        record.main(["--cpu"])
    assert "other programs keep 1.0 of this machine's cores busy" in capsys.readouterr().err


def test_an_earlier_runs_pictures_are_not_recorded(project, monkeypatch, capsys):
    """A page that draws fewer pictures than when it was run before: the old ones go before it runs again."""
    folder = project / "build"
    gallery = folder / "source" / "auto_gallery"
    run_page(gallery, "plot_a", script="an earlier run")
    (gallery / "images" / "sphx_glr_plot_a_002.png").write_bytes(b"old")
    for module, name, value in [
        *[(record, "ROOT", project), (build, "find_device", lambda: "NVIDIA X"), (record, "page_names", lambda: PAGES)],
        *[(build, "build_folder", lambda fast, device: folder), (build, "prepare", lambda *arguments: None)],
        (build, "fingerprint", lambda device: {"plot_a": "code"}),
        (record.subprocess, "run", lambda *arguments, **options: run_page(gallery, "plot_a")),
    ]:
        monkeypatch.setattr(module, name, value)
    assert record.main(["plot_a"]) == 0
    assert "plot_a: 12 s, 2048 MiB of GPU memory, CUDAExecutionProvider" in capsys.readouterr().out
    images = {path.name for path in (project / "docs" / "recorded" / "nvidia-x" / "plot_a" / "images").glob("*.png")}
    assert images == {"sphx_glr_plot_a_001.png", "sphx_glr_plot_a_001_2_00x.png"}


@pytest.mark.parametrize(("gpus", "code"), [(None, 0), (0, 1)])
def test_a_page_on_the_cpu_is_recorded_with_a_gpus_others_unless_it_lacked_gpus(
    project, monkeypatch, capsys, gpus, code
):
    gallery = project / "build" / "source" / "auto_gallery"
    facts = FACTS | {"device": "cpu", "mode": "cpu", "provider": None} | ({} if gpus is None else {"gpus": gpus})
    for module, name, value in [
        *[(record, "ROOT", project), (build, "find_device", lambda: "NVIDIA Y"), (record, "page_names", lambda: PAGES)],
        *[(build, "build_folder", lambda *_: project / "build"), (build, "prepare", lambda *_: None)],
        (build, "fingerprint", lambda device: {"plot_a": "code"}),
        (record.subprocess, "run", lambda *_, **options: run_page(gallery, "plot_a", facts)),
    ]:
        monkeypatch.setattr(module, name, value)
    gallery.mkdir(parents=True)
    assert record.main(["plot_a"]) == code
    assert (project / "docs" / "recorded" / "nvidia-y" / "plot_a" / "record.json").exists() == (code == 0)
    assert ("it takes more GPUs than are here" in capsys.readouterr().err) == (code == 1)


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
    runs = measured.read_runs("plot_a", project / "cpu", project)
    assert list(runs) == ["this run (cpu)", "NVIDIA X, recorded"]
    text = " ".join(measured.comparison(runs).split())
    assert "* - figure - this run (cpu) - NVIDIA X, recorded" in text
    assert "* - loop (tokens/s) - 1.50 - 1,234 * - limit (tokens/s) - 120 - –" in text
    assert "* - running time of the page (s) - 30.2 - 12.5 * - most GPU memory (MiB) - – - 2,048" in text


def test_a_recorded_page_is_not_compared_with_itself(project):
    (project / "run" / "RECORDED").touch()
    runs = measured.read_runs("plot_a", project / "run", project)
    assert list(runs) == ["NVIDIA X, recorded"]
    run_page(project / "run", "plot_a", FACTS | {"device": "cpu"})
    assert next(iter(measured.read_runs("plot_a", project / "run", project))) == "CPU, 8 cores, recorded"


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
    measured.beside(app, "auto_gallery/plot_a", not_run := ["text\n**Estimated memory usage:**  0 MB\n\n"])
    assert not_run[0].startswith(".. warning::\n\n   It has changed.\n\n")
    assert "memory usage" not in not_run[0]
    measured.beside(app, "index", content := [end])
    assert content == [end]


def test_page_of_all_records(project):
    for name in ("plot_generate", "plot_engines"):
        (project / "gallery" / f"{name}.py").write_text(CODE)
        facts = FACTS | {"figures": {"loop (tokens/s)": 50, "limit (tokens/s)": 80, "share": 0.6}}
        run_page(project / "run", name, facts)
        recorded.add_page(name, project / "run", project / RECORD, code_of(project))
    (project / "source").mkdir()
    measured_on.write_page(project / "source", project)
    text = (project / "source" / "measured_on.rst").read_text()
    assert ":ref:`l-plot-generate`" in text
    assert ":ref:`l-plot-onnx-speed`" not in text  # it has no figures here
    assert "* - :doc:`/auto_gallery/plot_a`\n     - 12.5" in text
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


class Driver(SimpleNamespace):
    """NVML's Python module: one GPU with the UUID 1, 3 MiB in use."""

    NVMLError = type("NVMLError", (Exception,), {})

    def nvmlInit(self):
        self.started = True

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if not self.started or uuid != "GPU-1":
            raise self.NVMLError
        return "device"

    def nvmlDeviceGetMemoryInfo(self, device):
        return SimpleNamespace(total=9, free=6, used=3 * 2**20)


def test_memory_in_use_is_what_the_driver_says_of_the_gpu_that_torch_runs_on(monkeypatch):
    import torch

    monkeypatch.setitem(sys.modules, "pynvml", Driver(started=False))
    assert measured.gpu_memory() is None or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for uuid, expected in {"1": 3 * 2**20, "2": None}.items():
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index, uuid=uuid: SimpleNamespace(uuid=uuid))
        assert measured.gpu_memory() == expected


def test_committed_records_are_whole():
    for device in recorded.recorded_devices():
        for page, manifest in recorded.read_record(device).items():
            facts = manifest["facts"]
            needs_none = facts["device"] == "cpu" and "gpus" not in facts  # such a page runs on the CPU anywhere
            assert needs_none or recorded.slug(facts) == recorded.holder(device, page), page
            assert facts["mode"] == ("cpu" if facts["device"] == "cpu" else "gpu")
            if facts["mode"] == "gpu":
                assert facts["provider"] in (None, "CUDAExecutionProvider")
        size = sum(len(content) for content in files(ROOT / recorded.RECORDS / device).values())
        assert size < recorded.LARGEST
