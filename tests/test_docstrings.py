"""The examples in the docstrings of the public names: what they print is what stands there."""

import doctest

import numpy
import pytest
import torch

import decodeloop

#: What a reader of the reference has imported. Another name that an example uses, it imports itself.
NAMES = vars(decodeloop) | {"decodeloop": decodeloop, "torch": torch, "np": numpy}
EXAMPLES = [
    example
    for name in decodeloop.__all__
    for example in doctest.DocTestFinder().find(getattr(decodeloop, name), name, globs=NAMES)
    if example.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_gives_what_it_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed = runner.run(example, out=said.append).failed
    assert not failed, "".join(said)
