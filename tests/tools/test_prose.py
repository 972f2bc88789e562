"""A recorded page's text may change without another run; its code may not."""

import pytest
from prose import with_prose_of

SCRIPT = '''"""
Title
=====

First.
"""

print(1)

# %%
# Then
# ====
#
# Second.

print(2)  # two
'''
RST = """
.. the head that Sphinx-Gallery writes

Title
=====

First.

.. GENERATED FROM PYTHON SOURCE LINES 7-10

.. code-block:: Python

    print(1)

.. code-block:: none

    1

.. GENERATED FROM PYTHON SOURCE LINES 11-15

Then
====

Second.

.. GENERATED FROM PYTHON SOURCE LINES 15-18

.. code-block:: Python

    print(2)  # two

.. code-block:: none

    2
"""


@pytest.fixture
def pages(tmp_path):
    """The script of now, and the one that was recorded, with what it printed."""
    (tmp_path / "recorded").mkdir()
    now, recorded = tmp_path / "plot_a.py", tmp_path / "recorded" / "plot_a.py"
    for path in (now, recorded):
        path.write_text(SCRIPT)
    recorded.with_suffix(".rst").write_text(RST)
    return now, recorded


def test_a_page_that_is_as_it_was_is_shown_as_it_was(pages):
    assert with_prose_of(*pages) == RST


@pytest.mark.parametrize(("old", "new"), [("First.", "To begin with:"), ("# Second.", "# Second,\n# at length.")])
def test_text_is_taken_from_the_script_and_outputs_from_the_record(pages, old, new):
    now, recorded = pages
    now.write_text(SCRIPT.replace(old, new))
    shown = with_prose_of(now, recorded)
    lines = [line for line in shown.splitlines() if "GENERATED" not in line]
    expected = RST.replace(old.removeprefix("# "), new.replace("# ", "")).splitlines()
    assert lines == [line for line in expected if "GENERATED" not in line]


def test_lines_are_those_of_the_script(pages):
    now, recorded = pages
    now.write_text(SCRIPT.replace("First.", "First,\nat length."))
    assert "LINES 8-11\n" in with_prose_of(now, recorded)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("print(1)", "print(3)"),
        ("  # two", "  # a comment that readers see with the code"),
        ("# %%\n# Then\n# ====\n#\n# Second.\n", ""),
        ("print(2)  # two\n", "print(2)  # two\n\n# %%\n# Third.\n"),
        ('"""\n\nprint(1)', '"""\n\n# %%\n# Between.\n\nprint(1)'),
        (SCRIPT, "print(1)\n"),
    ],
)
def test_other_code_is_another_page(pages, old, new):
    now, recorded = pages
    assert old in SCRIPT
    now.write_text(SCRIPT.replace(old, new))
    assert with_prose_of(now, recorded) is None


def test_a_rendering_that_does_not_hold_the_old_text_is_not_changed(pages):
    now, recorded = pages
    now.write_text(SCRIPT.replace("Second.", "Later."))
    recorded.with_suffix(".rst").write_text(RST.replace("Second.", "Edited."))
    assert with_prose_of(now, recorded) is None
