"""What we promise: each line names tests that are there, and the page has a count of each."""

import ast
from pathlib import Path

import promises
import pytest

ROOT = Path(__file__).parents[2]
LISTED = promises.read_promises()


@pytest.mark.parametrize("promise", LISTED, ids=lambda promise: promise["says"][:40])
def test_a_promise_names_tests_that_are_there(promise):
    for test in promise["tests"]:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), test
        if name:
            body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
            assert name in [each.name for each in body if isinstance(each, ast.FunctionDef)], test


def test_the_page_has_a_count_of_each_promise_and_none_is_broken():
    counts = promises.read_counts()
    assert list(counts) == [promise["says"] for promise in LISTED]
    for says, passed, *_ in counts.values():
        number, _, total = passed.partition(" of ")
        assert number == total != "0", says
