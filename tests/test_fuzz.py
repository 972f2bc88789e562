"""Whatever the public functions are given, they give a right answer or an error of their own in one line.

200 cases, always the same ones; ``nox -s fuzz`` draws 2,000 others (``FUZZ_CASES``).
"""

import contextlib
import os

import pytest
from fuzz_decoding import decoding_specs
from fuzz_package import package_specs
from fuzz_subjects import Subjects
from fuzzing import arguments, fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("FUZZ_CASES", "0"))


class Specs(dict):
    """The specs by name, and the folder for what is written. Hypothesis shows no more of it than its name."""

    def __init__(self, folder, specs):
        super().__init__(specs)
        self.folder = folder

    def __repr__(self):
        return "specs"


@pytest.fixture(scope="session")
def specs(phi, llama, bundled, phi_graph, phi_fused, tmp_path_factory):
    """The public functions by name, with what their arguments are drawn from."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "folder").mkdir()
    subjects = Subjects(phi, llama, bundled, phi_graph.path, phi_fused.path, folder)
    return Specs(folder, decoding_specs(subjects) | package_specs(subjects))


@pytest.mark.timeout(7200 if CASES else 900)
@settings(
    max_examples=CASES or 200,
    derandomize=not CASES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_a_right_answer_or_an_error_of_our_own(specs, data):
    name = data.draw(st.sampled_from(sorted(specs)), label="function")
    given, spoiled = arguments(data.draw, specs[name])
    (specs.folder / "file").write_text("no graph")  # an export to this path may have replaced it
    with contextlib.chdir(specs.folder):
        found = fault(specs[name], given, spoiled)
    assert found is None, f"{name}({', '.join(given)}), junk: {spoiled}: {found}"
