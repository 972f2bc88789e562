import datetime
import html.parser
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
from types import SimpleNamespace

import pandas
import pytest
import torch

import decodeloop.measuring.provenance as room
from decodeloop import Provenance, provenance

KEYS = [
    *["date", "mode", "device", "device_memory_gib", "driver", "cuda", "cpu", "cores", "threads", "memory_gib"],
    *["platform", "python", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy"],
    *["onnxruntime_package", "provider", "spinning", "commit"],
]


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine with one GPU, as torch and its driver would report it."""
    properties = SimpleNamespace(name="NVIDIA <X>", total_memory=139.8 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("UNITTEST_GOING", raising=False)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("UNITTEST_GOING", raising=False)


def test_keys_are_stable_and_extra_facts_follow():
    found = provenance(model="bundled", dtype=torch.float16, sizes=(1, 2.5, None))
    assert list(found) == [*KEYS, "model", "dtype", "sizes"]
    assert (found["model"], found["dtype"], found["sizes"]) == ("bundled", "float16", [1, 2.5, None])
    assert json.loads(json.dumps(found)) == found
    assert isinstance(found, dict)


def test_model_says_whether_its_weights_are_trained():
    loaded = SimpleNamespace(name="bundled", weights="trained")
    local = SimpleNamespace(name="/home/someone/phi", weights="random")
    assert provenance(model=loaded)["model"] == "bundled (trained weights)"
    assert "\nModel     bundled (trained weights); phi (random weights)\n" in str(provenance(model=[loaded, local]))


def test_figures_are_kept_and_not_shown():
    found = provenance(figures={"generate (tokens/s)": torch.tensor(2.5), "steps": 3})
    assert found["figures"] == {"generate (tokens/s)": 2.5, "steps": 3.0}
    assert "tokens/s" not in str(found) + found._repr_html_()
    assert provenance(figures=pandas.Series({"a (ms)": 1.5, "b (ms)": 2}))["figures"] == {"a (ms)": 1.5, "b (ms)": 2.0}
    with pytest.raises(TypeError, match=r"provenance\(figures=\[1.5\]\): expected numbers by their labels"):
        provenance(figures=[1.5])
    for wrong in ("fast", None, float("nan")):
        with pytest.raises(TypeError, match=r"figures=\{'speed': .*\}\): expected a finite number"):
            provenance(figures={"speed": wrong})


def test_values_of_this_machine():
    found = provenance()
    assert found["torch"] == importlib.metadata.version("torch")
    assert found["python"] == platform.python_version()
    assert found["cores"] >= 1
    assert found["threads"] == torch.get_num_threads()
    date = datetime.datetime.fromisoformat(found["date"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ", found["date"])
    assert abs(datetime.datetime.now(datetime.UTC) - date) < datetime.timedelta(minutes=2)


def test_no_host_name_and_no_path():
    values = [str(value) for key, value in provenance().items() if key not in ("cpu", "device")]
    assert platform.node() not in values
    assert not any("/" in value or "\\" in value for value in values)


def test_extra_facts_are_json_types():
    with pytest.raises(
        TypeError, match=r"provenance\(model=...\) got Linear: give a JSON type, str\(model\) for example"
    ):
        provenance(model=torch.nn.Linear(1, 1))


def test_cpu_run_says_that_it_is_no_gpu_benchmark(no_gpu):
    found = provenance()
    assert (found["mode"], found["device"], found["driver"], found["cuda"]) == ("cpu", "cpu", None, None)
    assert str(found).endswith("Note      CPU run: this is no benchmark of a GPU.")
    assert "no benchmark of a GPU" in found._repr_html_()


def test_fast_run_says_that_it_is_no_benchmark(gpu, monkeypatch):
    monkeypatch.setenv("UNITTEST_GOING", "1")
    found = provenance()
    assert found["mode"] == "fast"
    assert "This is no benchmark of a GPU" in str(found)
    assert "This is no benchmark of a GPU" in found._repr_html_()


def test_gpu_run(gpu):
    found = provenance(provider="CUDAExecutionProvider")
    assert found["mode"] == "gpu"
    assert str(found).startswith("Device    NVIDIA <X>, 139.8 GiB, driver 580.65.06, CUDA 13.0\n")
    assert "\nProvider  CUDAExecutionProvider\n" in str(found)
    assert "Note" not in str(found)
    assert provenance(device=torch.device("cuda"))["device"] == "NVIDIA <X>"
    assert provenance(device="cpu")["mode"] == "cpu"


def test_a_decoder_tells_its_provider_and_whether_its_threads_spin():
    decoder = SimpleNamespace(providers=["CUDAExecutionProvider", "CPUExecutionProvider"], spinning=False)
    found = provenance(provider=decoder)
    assert (found["provider"], found["spinning"]) == ("CUDAExecutionProvider", False)
    assert "\nProvider  CUDAExecutionProvider, threads sleep while they wait\n" in str(found)
    found = provenance(provider="CPUExecutionProvider", spinning=True)
    assert (found["provider"], found["spinning"]) == ("CPUExecutionProvider", True)
    assert "\nProvider  CPUExecutionProvider, threads spin while they wait\n" in str(found)
    assert provenance(provider="CPUExecutionProvider")["spinning"] is None
    older = {key: value for key, value in found.items() if key != "spinning"}
    assert "\nProvider  CPUExecutionProvider\n" in str(Provenance(older))


def test_html_is_escaped_and_well_formed(gpu):
    text = provenance(model="<script>&")._repr_html_()
    assert "NVIDIA &lt;X&gt;" in text
    assert "&lt;script&gt;&amp;" in text
    opened = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append(tag)
            classes = ("decodeloop-provenance", "admonition note", "admonition-title")
            assert dict(attrs) in ({}, {"scope": "row"}, *({"class": each} for each in classes))

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Parser().feed(text)
    assert not opened


def test_onnxruntime_distribution_is_named(monkeypatch):
    installed = {"onnxruntime-gpu": "1.31.1", "onnxruntime": "1.30.0", "torch": "2.11.0"}

    def version(distribution):
        if distribution not in installed:
            raise importlib.metadata.PackageNotFoundError
        return installed[distribution]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = provenance()
    assert (found["onnxruntime"], found["onnxruntime_package"]) == ("1.31.1", "onnxruntime-gpu")
    assert found["onnxscript"] is None
    assert "torch 2.11.0, onnxruntime-gpu 1.31.1\n" in str(found)


def commit_of(file):
    """What the commit is where ``file`` is the package's."""
    spec = importlib.util.spec_from_file_location("installed_provenance", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.provenance()["commit"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_of_a_clone(tmp_path, monkeypatch):
    source = pathlib.Path(room.__file__)
    file = tmp_path / "src" / "decodeloop" / "measuring" / "provenance.py"
    file.parent.mkdir(parents=True)
    shutil.copy(source, file)
    assert commit_of(file) is None  # not in a clone

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")[:12]
    assert commit_of(file) == commit
    file.write_text(f"{file.read_text()}# changed\n")
    assert commit_of(file) == f"{commit}+changed"
    installed = tmp_path / "lib" / "python3.11" / "site-packages" / "decodeloop" / "measuring" / "provenance.py"
    installed.parent.mkdir(parents=True)
    shutil.copy(source, installed)
    assert commit_of(installed) is None  # in a clone's virtual environment, yet not of it
    monkeypatch.setenv("PATH", "")
    assert commit_of(file) is None  # without git


def test_outside_a_clone_the_page_says_so():
    assert "\nCommit    not in a clone\n" in str(Provenance(device="cpu"))


def test_what_cannot_be_found_out_is_none(gpu, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no such thing")

    monkeypatch.setattr(os, "sysconf", fail)
    monkeypatch.setattr(subprocess, "run", fail)
    read_text = pathlib.Path.read_text
    proc = pathlib.Path("/proc")  # there is none but on Linux
    monkeypatch.setattr(
        pathlib.Path, "read_text", lambda p, *a, **k: (fail if proc in p.parents else read_text)(p, *a, **k)
    )
    found = provenance()
    assert [found[key] for key in ("driver", "memory_gib", "commit")] == [None] * 3
    assert found["cpu"] == platform.machine()
    assert "Device    NVIDIA <X>, 139.8 GiB, CUDA 13.0\n" in str(found)
