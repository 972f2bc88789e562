"""Record a run of the gallery on this machine's GPU, at full size, in docs/recorded/<device>/.

``nox -s docs -- --recorded <device>`` renders it anywhere. Pages that are named are recorded again, and the others left
as they are.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import build
from recorded import COST, LARGEST, RECORDS, ROOT, RecordError, add_page, check_run, page_files, page_names, slug


def taken_cores(seconds: float = 1.0) -> float:
    """How many cores other programs keep busy; 0 where the system does not tell."""
    from decodeloop.engines.onnx_session import idle_cores

    idle = idle_cores(seconds)
    return 0.0 if idle is None else (os.cpu_count() or 1) - idle


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s record --", description=__doc__)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="such as plot_generate; all of them if none is named")
    parser.add_argument("--cpu", action="store_true", help="record this machine's CPU instead of a GPU")
    options = parser.parse_args(arguments)
    pages = [Path(page).stem for page in options.pages] or page_names()
    if unknown := [page for page in pages if page not in page_names()]:
        parser.error(f"no such page: {', '.join(unknown)}. Pages: {', '.join(page_names())}.")
    device = build.find_device()
    if device == "cpu" and not options.cpu:
        parser.error("no GPU here (torch sees none), and a record is of a GPU's run. --cpu records this CPU's.")
    if device != "cpu" and options.cpu:
        parser.error(f"--cpu is for a machine without a GPU, and here is a {device}: CUDA_VISIBLE_DEVICES= hides it.")
    if device == "cpu" and (taken := taken_cores()) > 0.5:
        parser.error(
            f"other programs keep {taken:.1f} of this machine's cores busy, so loops take fewer threads and every time "
            "is another: record where nothing else runs, and start nothing until it is done."
        )

    folder = build.build_folder(False, device)
    build.prepare(folder, now := build.fingerprint(device))
    gallery = folder / "source" / "auto_gallery"
    for page in pages:
        for path in {*gallery.glob(f"{page}.*"), *page_files(page, gallery)}:  # an earlier run's pictures, too
            path.unlink(missing_ok=True)
    picked = rf"sphinx_gallery_conf.filename_pattern=/({'|'.join(pages)})\.py"
    # Which pages failed is seen by what they left behind: the others are recorded, after Ctrl-C too.
    sphinx = [sys.executable, "-m", "sphinx", "-b", "dummy", "-D", picked, "-c", build.DOCS]
    folders = ["-d", folder / "doctrees", folder / "source", folder / "dummy"]
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run([*sphinx, *folders], env=os.environ | build.QUIET | {"UNITTEST_GOING": "0"})
    failed = []
    for page in pages:
        try:
            facts = check_run(page, gallery)
            if found := build.check_text(gallery / f"{page}.rst", gallery, build.private_paths()):
                raise RecordError(f"{page}: what a page must not show:\n  " + "\n  ".join(found))
        except RecordError as error:
            failed.append(str(error))
            continue
        if device != "cpu" and facts.get("gpus") == 0:
            failed.append(f"{page}: it ran on the CPU, since it takes more GPUs than are here. It was not recorded.")
            continue
        record = ROOT / RECORDS / slug(facts | {"device": device})  # some pages need no GPU anywhere
        add_page(page, gallery, record, now[page])
        cost = json.loads((gallery / f"{page}{COST}").read_text())
        memory = f", {cost['memory']:.0f} MiB of GPU memory" if facts["mode"] == "gpu" else ""
        print(f"{page}: {cost['time']:.0f} s{memory}, {facts['provider'] or 'no onnxruntime'}")
    for path in (ROOT / RECORDS).glob("*"):
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{path.relative_to(ROOT)}: {size / 1e6:.1f} MB")
        if size > LARGEST:
            failed.append(f"{path.name}: {size / 1e6:.1f} MB, and a record may have {LARGEST / 1e6:.0f} MB.")
    print(*failed, sep="\n", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
