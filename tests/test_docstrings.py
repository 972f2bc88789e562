"""The examples in the docstrings of the public names: what they print is what stands there."""

import doctest

import pytest

import decodeloop

FOUND = [
    example
    for name in decodeloop.__all__
    for example in doctest.DocTestFinder().find(getattr(decodeloop, name), name, globs={})
    if example.examples
]


@pytest.mark.parametrize("example", FOUND, ids=lambda example: example.name)
def test_an_example_gives_what_it_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)
