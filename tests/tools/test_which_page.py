"""The page "Which should I use?": its rules are counted in the recorded runs, and none is contradicted."""

import json

import pytest
import which_page
from measurements import NEXT, row

PLACE = {"model": "m", "dtype": "float32", "batch": 1, "context": 24}
FACTS = {"device": "cpu", "cpu": "C", "cores": 2, "mode": "cpu", "date": "2026-01-01", "commit": "abc"}
RULE = {"says": "a is faster than b", "faster": "a", "slower": "b"}


@pytest.fixture
def recorded(tmp_path):
    """Writes a run of some rows to a folder of results: engine, times in ms and what differs from PLACE."""

    def write(*rows, name="run", machine="cpu-2-cores", settings=(), **facts):
        made = [row(NEXT, times, engine=engine, **(PLACE | place)) for engine, times, place in rows]
        run = {"benchmark": "b", "settings": dict(settings), "provenance": FACTS | facts, "rows": made}
        path = tmp_path / machine / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(run))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [([1, 2], [3, 4], "holds"), ([1, 3], [2, 4], "overlaps"), ([3, 4], [1, 2], "contradicts")],
)
def test_a_rule_holds_where_all_runs_are_faster(recorded, ours, theirs, verdict):
    cases = which_page.measured_cases(recorded(("a", ours, {}), ("b", theirs, {})))
    found = which_page.judge(RULE, cases)
    assert {name: len(places) for name, places in found.items() if places} == {verdict: 1}


def test_a_rule_of_one_kind_of_device_is_not_asked_on_the_other(recorded):
    recorded(("a", [3], {}), ("b", [1], {}))
    results = recorded(("a", [1], {}), ("b", [3], {}), machine="nvidia-h200")
    cases = which_page.measured_cases(results)
    assert [len(found) for found in which_page.judge(RULE, cases).values()] == [1, 0, 1]
    assert [len(found) for found in which_page.judge(RULE | {"on": "gpu"}, cases).values()] == [1, 0, 0]
    assert [len(found) for found in which_page.judge(RULE | {"on": "cpu"}, cases).values()] == [0, 0, 1]


def test_a_rule_of_short_prompts_is_not_asked_of_longer_ones(recorded):
    cases = which_page.measured_cases(recorded(("a", [3], {"context": 32}), ("b", [1], {"context": 32})))
    assert [len(found) for found in which_page.judge(RULE | {"up_to": 32}, cases).values()] == [0, 0, 1]
    assert [len(found) for found in which_page.judge(RULE | {"up_to": 31}, cases).values()] == [0, 0, 0]


def test_the_later_run_counts_and_a_busy_machine_is_another(recorded):
    recorded(("a", [9], {}), ("b", [1], {}), name="z_old", date="2025-01-01")
    recorded(("a", [9], {}), ("b", [1], {}), name="busy", settings={"busy_cores": 1})
    results = recorded(("a", [1], {}), ("b", [2], {}), name="a_new", date="2026-02-01")
    found = which_page.judge(RULE, which_page.measured_cases(results))
    assert [place[0] for place in found["holds"]] == ["cpu-2-cores (C)"]
    assert [place[0] for place in found["contradicts"]] == ["cpu-2-cores (C), 1 busy"]


def test_no_time_of_one_run_is_divided_by_another_runs(recorded):
    recorded(("generate", [8], {}), ("a", [9], {}), name="old", date="2025-01-01")
    results = recorded(("generate", [4], {}), ("b", [1], {}), name="new")
    cases = which_page.measured_cases(results)
    assert {place[-1]: [engine for engine, _ in rows] for place, rows in cases.items()} == {
        "old": ["generate", "a"],
        "new": ["generate", "b"],
    }
    assert not any(which_page.judge(RULE, cases).values())


def test_two_processors_are_two_machines(recorded):
    recorded(("a", [9], {}), name="old", cpu="C, *X")
    results = recorded(("a", [9], {}), ("b", [1], {}), name="new", cpu="C, Y")
    cases = which_page.measured_cases(results)
    assert {place[0] for place in cases} == {"cpu-2-cores (C, *X)", "cpu-2-cores (C, Y)"}
    assert [len(places) for places in which_page.judge(RULE, cases).values()] == [0, 0, 1]
    assert "cpu-2-cores (C, \\*X): the fastest" in which_page.fastest(
        which_page.measured_cases(recorded(("generate", [9], {}), ("torch", [9], {}), name="old", cpu="C, *X"))
    )


def test_a_rule_of_idle_machines_is_not_asked_on_a_busy_one(recorded):
    cases = which_page.measured_cases(recorded(("a", [3], {}), ("b", [1], {}), settings={"busy_cores": 1}))
    assert [len(found) for found in which_page.judge(RULE, cases).values()] == [0, 0, 1]
    assert [len(found) for found in which_page.judge(RULE | {"idle": True}, cases).values()] == [0, 0, 0]


def test_the_fastest_of_each_kind_is_named_with_its_gain(recorded):
    rows = [("generate", [8], {}), ("torch", [4], {}), ("torch compiled", [2], {}), ("onnx fused int4", [1], {})]
    text = which_page.fastest(which_page.measured_cases(recorded(*rows)))
    assert "4 × (torch compiled)" in text
    assert "8 × (onnx fused int4)" in text
    assert "2 × (torch)" not in text
    assert "125" in text  # generate's tokens per second


def test_without_a_record_the_page_says_so(tmp_path):
    which_page.write_measured(tmp_path, tmp_path)
    text = (tmp_path / which_page.INCLUDED).read_text()
    assert "No run has been recorded yet." in text
    assert text.count("not yet") == len(which_page.read_rules())


@pytest.mark.parametrize("rule", which_page.read_rules(), ids=lambda rule: f"{rule['faster']} - {rule['slower']}")
def test_no_recorded_measurement_contradicts_the_advice(rule):
    assert which_page.judge(rule, which_page.measured_cases())["contradicts"] == []
