"""How much a page asks of its reader: counted, and no page asks for too much."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "site"))
from reading import LEAST_TEACHING, MOST_LINES, read_page  # noqa: E402

PAGE = '''"""
Five words are up here.
"""
import torch
FAST = True

# %%
# Three more words.

import pandas


@torch.no_grad()
def decode(ids):
    # a comment
    for _ in range(3):
        ids = ids + 1
    return ids


# %%

table = pandas.DataFrame()
for name in table:
    print(
        name
    )
'''


def test_what_teaches_is_told_from_what_arranges(tmp_path):
    (tmp_path / "plot_x.py").write_text(PAGE)
    page = read_page(tmp_path / "plot_x.py")
    assert (page.lines, page.code, page.teaching, page.words) == (27, 13, 9, 8)
    assert page.share == pytest.approx(9 / 13)


@pytest.mark.parametrize("script", sorted((ROOT / "gallery").glob("plot_*.py")), ids=lambda path: path.stem)
def test_a_page_is_short_and_teaches(script):
    page = read_page(script)
    assert page.lines <= MOST_LINES
    assert page.share >= LEAST_TEACHING
