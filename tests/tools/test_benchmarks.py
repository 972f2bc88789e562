"""Benchmarks: the JSON of a run, what is refused, the comparison of two runs, the verdicts, and the page."""

import argparse
import copy
import json
import sys
from pathlib import Path

import as_table
import benchmark_page
import compare
import context_and_batch
import decode_speed
import measurements
import pytest
import recorded
import torch
from measurements import FIRST, LIMIT, NEXT, MeasurementError
from verdicts import verdicts

ROOT = Path(__file__).parents[2]
PLACE = {"model": "m", "dtype": "float32", "batch": 1, "context": 24}
FACTS = {
    **{"device": "cpu", "cpu": "C", "cores": 2, "threads": 2, "mode": "cpu", "date": "2026-01-01T00:00Z"},
    **{"commit": "abc", "torch": "2", "transformers": "5", "onnxruntime": "1", "onnxruntime_package": "onnxruntime"},
}


def run_of(*rows, **facts) -> dict:
    return {"benchmark": "speed", "settings": {"new_tokens": 8}, "provenance": FACTS | facts, "rows": list(rows)}


def step(*times, engine="fused", metric=NEXT, **place) -> dict:
    return measurements.row(metric, times, engine=engine, **(PLACE | place))


@pytest.fixture
def compared(tmp_path, capsys):
    """Compares two runs: the exit code, and what was printed."""

    def run(old: dict, new: dict) -> tuple[int, str]:
        paths = [tmp_path / "old.json", tmp_path / "new.json"]
        for path, content in zip(paths, (old, new), strict=True):
            path.write_text(json.dumps(content))
        code = compare.main([str(path) for path in paths])
        return code, "".join(capsys.readouterr())

    return run


def test_a_row_holds_the_median_and_how_far_the_runs_lay_apart():
    (first, following) = measurements.timed([0.3, 0.1, 0.2], [0.004, 0.002], engine="fused", **PLACE)
    assert first == PLACE | {"engine": "fused", "metric": FIRST, "unit": "ms"} | {
        **{"median": 200.0, "min": 100.0, "max": 300.0, "runs": 3}
    }
    assert (following["median"], following["runs"]) == (3.0, 2)


def test_an_error_is_a_row_with_its_first_line():
    each = measurements.failed(RuntimeError("no room\nat line 3"), engine="fused", **PLACE)
    assert (each["median"], each["runs"], each["note"]) == (None, 0, "RuntimeError: no room")
    measurements.check(run_of(each), "it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.pop("settings"), "expected 'settings', a dict"),
        (lambda run: run["provenance"].pop("cores"), "its provenance lacks cores"),
        (lambda run: run["rows"][0].pop("engine"), "row 0 lacks engine"),
        (lambda run: run["rows"][0].update(metric="speed"), r"row 0 has speed \(ms\): expected one of first token"),
        (lambda run: run["rows"][0].update(unit="s"), r"row 0 has next token \(s\): expected one of"),
        (lambda run: run["rows"][0].update(median=9.0), r"row 0 has \[9.0, 1.0, 3.0\] of 3 runs"),
        (lambda run: run["rows"][0].update(median=None), r"row 0 has \[None, 1.0, 3.0\] of 3 runs"),
        (lambda run: run["rows"].append(run["rows"][0]), "row 1 is there twice: m float32, 1 x 24, fused, next token"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused_by_what_is_wrong(change, message):
    content = copy.deepcopy(run_of(step(1, 2, 3)))
    measurements.check(content, "it")
    change(content)
    with pytest.raises(MeasurementError, match=f"^it: .*{message}"):
        measurements.check(content, "it")


def test_a_machine_has_one_name_in_all_records():
    for facts in (FACTS, FACTS | {"device": "NVIDIA H100 80GB HBM3"}):
        assert measurements.machine(facts) == recorded.slug(facts)


def test_recorded_runs_are_in_order_and_small():
    for path in measurements.RESULTS.glob("*/*.json"):
        content = measurements.read(path)
        assert measurements.machine(content["provenance"]) == path.parent.name
        assert content["provenance"]["mode"] != "fast"
        assert not str(content["provenance"]["commit"]).endswith("+changed")
        assert path.stat().st_size < 100_000


def test_a_run_that_is_written_again_and_again_is_of_the_commit_at_which_it_began(tmp_path, monkeypatch):
    """A record lies in the clone: once it is written for the first time, the clone has a change."""
    commits = iter(["abc", "abc+changed"])
    monkeypatch.setattr("decodeloop.provenance", lambda **options: FACTS | {"commit": next(commits)})
    options = argparse.Namespace(benchmark="speed", output=tmp_path / "run.json", record=None)
    for rows in ([step(1, 2, 3)], [step(1, 2, 3), step(2, 3, 4, batch=2)]):
        measurements.write(options, rows, ["m"], {"new_tokens": 8})
        written = measurements.read(options.output)
        assert (written["provenance"]["commit"], len(written["rows"])) == ("abc", len(rows))


def test_a_fall_beyond_the_spread_is_named_and_fails(compared):
    code, text = compared(run_of(step(10, 11, 12)), run_of(step(13, 14, 14.5)))
    assert code == 1
    assert "fell: m float32, 1 x 24, fused, next token (ms): 11 (10 to 12), now 14 (13 to 14.5): 27% worse" in text


def test_a_fall_within_the_spread_is_none(compared):
    code, text = compared(run_of(step(10, 11, 12)), run_of(step(10.5, 12.5, 12.5)))
    assert code == 0
    assert "fell 0" in text
    assert "now" not in text


def test_more_is_better_for_tokens_and_less_for_times(compared):
    old = run_of(step(10, 11, 12), step(8, metric="same tokens"))
    code, text = compared(old, run_of(step(5, 5.5, 6), step(3, metric="same tokens")))
    assert code == 1
    assert "rose: m float32, 1 x 24, fused, next token (ms): 11 (10 to 12), now 5.5" in text
    assert "fell: m float32, 1 x 24, fused, same tokens (tokens): 8, now 3: 62% worse" in text


def test_what_is_missing_new_or_fails_now_is_named(compared):
    lost = measurements.failed("no room", engine="genai", **PLACE)
    old = run_of(step(1, 2), step(1, 2, engine="genai"), step(1, 2, batch=4))
    code, text = compared(old, run_of(step(1, 2), lost, step(1, 2, batch=8)))
    assert code == 1
    assert "fails: m float32, 1 x 24, genai, next token: no room" in text
    assert "missing: m float32, 4 x 24, fused, next token" in text
    assert "added: m float32, 8 x 24, fused, next token" in text
    assert compared(old, run_of(*old["rows"][:2]))[0] == 0  # missing alone is no fall


def test_a_limit_is_the_machines_and_a_single_run_has_no_spread(compared):
    old = run_of(step(1, 1, engine=LIMIT), step(1))
    code, text = compared(old, run_of(step(2, 2, engine=LIMIT), step(2)))
    assert code == 0
    assert "one run: m float32, 1 x 24, fused, next token: a single run has no spread" in text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run_of(step(1, 2), cpu="D"), "cpu was C and is D: expected runs of one benchmark on one machine"),
        (run_of(step(1, 2), threads=1), "threads was 2 and is 1"),
        (run_of(step(1, 2)) | {"settings": {"new_tokens": 9}}, "settings was"),
        (run_of(step(1, 2)) | {"benchmark": "waterfall"}, "benchmark was speed and is waterfall"),
        ([], "expected 'benchmark'"),
    ],
)
def test_other_machines_and_settings_are_refused(compared, other, message):
    code, text = compared(run_of(step(1, 2)), other)
    assert code == 2
    assert message in text


def test_versions_that_changed_are_named(compared):
    code, text = compared(run_of(step(1, 2)), run_of(step(1, 2), torch="3"))
    assert code == 0
    assert "torch: 2, now 3" in text


def test_the_table_says_what_follows_from_the_numbers():
    rows = [step(8, 8, 8, batch=4, engine="generate"), step(4, 4.5, 5, batch=4), step(3.6, batch=4, engine=LIMIT)]
    lost = measurements.failed("no driver", engine="genai", model="m", dtype="float32")
    header, *lines = as_table.table([lost, *rows, step(48, metric=FIRST, batch=4)])
    assert lines.pop() == ["m", "float32", "", "", "genai", *[""] * (len(header) - 6), "no driver"]
    generate, fused, limit = (dict(zip(header, line, strict=True)) for line in lines)
    assert fused["next token (ms)"] == "4.50 (4 to 5)"
    assert fused["first token (ms)"] == "48"
    assert fused["prompt tokens/s"] == "2,000"
    assert [line["tokens/s"] for line in (generate, fused, limit)] == ["500", "889", "1,111"]
    assert (fused["x generate"], fused["of the limit"], limit["of the limit"]) == ("1.78", "80%", "")
    assert "margin (logits)" not in header


def long_text(steps: dict, first: dict) -> list[dict]:
    """Rows at 1,024 and 8,192 tokens, at which the limit is 1 and 1.5 ms."""
    limits = [step(time, engine=LIMIT, context=context) for context, time in ((1024, 1), (8192, 1.5))]
    shorter = [step(pair[0], engine=name, context=1024) for name, pair in steps.items()]
    longer = [step(pair[1], engine=name, context=8192) for name, pair in steps.items()]
    return (
        limits
        + shorter
        + longer
        + [step(*times, engine=name, context=8192, metric=FIRST) for name, times in first.items()]
    )


def test_verdicts_tell_whether_a_step_grows_as_its_bytes_do_and_a_prompt_is_read_in_time():
    steps = {"generate": (30, 30), "fused": (2, 3), "slow": (2, 4)}
    judged = verdicts(long_text(steps, {"generate": (50, 52), "fused": (51, 53), "slow": (60, 62)}))
    holds = {(each["claim"].split()[-1], each["text"].partition(":")[0]): each["holds"] for each in judged}
    assert holds == {
        **{("predict", "generate"): True, ("predict", "fused"): True, ("predict", "slow"): False},
        **{("runs", "fused"): True, ("runs", "slow"): False},
    }
    (text,) = (each["text"] for each in judged if each["text"].startswith("slow: a step"))
    assert "takes 4 ms, 1.60 of the 2.50 expected (2 at 1,024 tokens, and 0.500 to read what the text adds)" in text


def arguments(monkeypatch, *given) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, given)])


def test_an_engine_that_fails_is_a_row_and_the_rest_goes_on(monkeypatch, tmp_path):
    written, loops = [], decode_speed.LOOPS

    def opens_not(model, folder):
        written.append(measurements.read(tmp_path / "run.json"))  # after each engine
        raise RuntimeError("no driver")

    def one_row_only(model, folder):
        run = loops["torch"](model, folder)

        def only_one(ids, k, on_token=None):
            if len(ids) > 1:
                raise MemoryError("no room for 2 rows")
            return run(ids, k, on_token)

        return only_one

    tried = {"generate": loops["generate"], "broken": opens_not, "one row": one_row_only, "torch": loops["torch"]}
    monkeypatch.setattr(context_and_batch, "LOOPS", tried)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sizes = ["--batches", 1, 2, "--contexts", 48, "--new-tokens", 3, "--repeats", 2]
    options = ["--model", "bundled", *sizes, "--output", tmp_path / "run.json", "--engines", *tried]
    arguments(monkeypatch, *options)
    context_and_batch.main()
    assert {each["engine"] for each in written[0]["rows"]} == {"generate", LIMIT}
    rows = measurements.read(tmp_path / "run.json")["rows"]
    notes = {(each["engine"], each["batch"]): each["note"] for each in rows if each["runs"] == 0}
    assert notes == {("broken", None): "RuntimeError: no driver", ("one row", 2): "MemoryError: no room for 2 rows"}
    measured = {(each["engine"], each["batch"], each["context"]) for each in rows if each["metric"] == FIRST}
    assert measured == {
        *((name, *size) for name in ("generate", "torch") for size in ((1, 32), (2, 32), (1, 48))),
        *(("one row", *size) for size in ((1, 32), (1, 48))),
    }
    same = [each["median"] for each in rows if each["metric"] == "same tokens"]
    assert same == [3.0] * 5


def test_a_run_can_be_added_to_one_of_the_same_machine_and_settings(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["--model", "bundled", "--repeats", 1, "--output", tmp_path / "run.json", "--add"]

    def engines(*given) -> dict[str, list[tuple[int, int]]]:
        arguments(monkeypatch, *options, *given)
        context_and_batch.main()
        rows = [each for each in measurements.read(tmp_path / "run.json")["rows"] if each["metric"] == NEXT]
        names = dict.fromkeys(each["engine"] for each in rows)
        return {name: [(e["batch"], e["context"]) for e in rows if e["engine"] == name] for name in names}

    short = ["--new-tokens", 2, "--batches", 1]
    assert engines(*short, "--contexts", "--engines", "generate") == {LIMIT: [(1, 32)], "generate": [(1, 32)]}
    both = {"generate": [(1, 32)], LIMIT: [(1, 32), (1, 48)], "torch": [(1, 32), (1, 48)]}
    assert engines(*short, "--contexts", 48, "--engines", "torch") == both
    with pytest.raises(SystemExit):
        engines("--new-tokens", 3, "--batches", 1, "--contexts", "--engines", "torch")
    assert "settings was {'new_tokens': 2} and is {'new_tokens': 3}" in capsys.readouterr().err


def test_decode_speed_writes_its_rows_where_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(measurements, "RESULTS", tmp_path)
    arguments(monkeypatch, "--device", "cpu", "--loops", "torch", "--prompt", 6, "--new-tokens", 3, "--record", "run")
    decode_speed.main()
    (path,) = tmp_path.glob("*/run.json")
    content = measurements.read(path)
    assert content["settings"] == {"new_tokens": 3}
    assert content["provenance"]["model"] == ["bundled (trained weights)"]
    assert {each["engine"] for each in content["rows"]} == {"generate", "torch", LIMIT}


def test_the_page_is_made_from_the_files_of_each_machine(tmp_path):
    results, source = tmp_path / "results", tmp_path / "source"
    source.mkdir()
    benchmark_page.write_benchmarks(source, results)
    assert "No run has been recorded yet." in (source / "benchmarks.rst").read_text()
    rows = [step(8, 9, 10, context=context) for context in (24, 48, 96)]
    rows.append(measurements.failed("cannot read *this* file_", engine="genai", **PLACE))
    judged = run_of(*long_text({"fused": (2, 4)}, {}), device="NVIDIA X") | {"benchmark": "context_and_batch"}
    later = run_of(*rows[:1])
    later["provenance"]["cpu"] = "D"  # the same folder, another processor
    contents = {"cpu-2-cores/decode_speed": run_of(*rows), "cpu-2-cores/later": later, "nvidia-x/decode_speed": judged}
    for name, content in contents.items():
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / f"{name}.json").write_text(json.dumps(content))
    benchmark_page.write_benchmarks(source, results)
    text = (source / "benchmarks.rst").read_text()
    headings = ["C, 2 cores\n==========", "D, 2 cores\n==========", "NVIDIA X\n========"]
    assert [text.count(heading) for heading in headings] == [1, 1, 1]
    assert "onnxruntime 1, beside 2 cores of C." in text
    assert "- 9 (8–10)" in text
    assert "- cannot read \\*this\\* file\\_" in text
    assert "- **Does not hold**: a long text's step is within 25% of what its bytes predict. fused: a step at" in text
    assert "Measured on 2026-01-01 at commit abc with torch 2, transformers 5, onnxruntime 1." in text
    assert [path.name for path in source.glob("*.png")] == ["benchmarks_cpu-2-cores_decode_speed_m_1.png"]
    assert text.count(".png") == 1
