"""The table of architectures and the page that tells of it."""

from export_coverage import COLUMNS, DOCS, passes, read


def test_the_page_counts_what_the_table_holds():
    rows = read(DOCS / "coverage.csv").values()
    count = sum(map(passes, rows))
    assert count >= 60
    assert f"**{count} of {len(rows)} architectures pass**" in (DOCS / "coverage.rst").read_text()
    for row in rows:
        assert list(row) == COLUMNS
        assert passes(row) or row["reason"], row
