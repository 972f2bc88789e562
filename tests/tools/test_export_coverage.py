"""The table of architectures and the page that tells of it."""

import pytest
from export_coverage import COLUMNS, DOCS, built, passes, read

from decodeloop.export.fused.describe import describe
from decodeloop.export.fused.families import FAMILIES

ROWS = read(DOCS / "coverage.csv").values()


def test_the_page_counts_what_the_table_holds():
    rows, count = ROWS, sum(map(passes, ROWS))
    assert count >= 60
    assert f"**{count} of {len(rows)} architectures pass**" in (DOCS / "coverage.rst").read_text()
    for row in rows:
        assert list(row) == COLUMNS
        assert passes(row) or row["reason"], row


@pytest.mark.parametrize("row", [row for row in ROWS if row["class"] in FAMILIES], ids=lambda row: row["architecture"])
def test_the_table_knows_which_models_have_a_fused_graph(row):
    described = describe(built(row["architecture"], row["class"])) is not None
    again = f"python tools/architectures/export_coverage.py {row['architecture']}"
    assert (row["fused"] == "fused") == described, f"measure it again: {again}"
