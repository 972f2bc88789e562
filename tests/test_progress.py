"""A line on a terminal while something takes long, and nothing anywhere else."""

import io
import re
import sys
import time

import pytest
from tiny_models import tiny_config, tiny_model

from decodeloop import export_onnx, progress
from decodeloop.progress import doing, working


class Terminal(io.StringIO):
    def isatty(self):
        return True


def opened(monkeypatch, stream):
    """The stream as stderr, from within a test: pytest puts its own there before each."""
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def wait_for(stream, text):
    deadline = time.monotonic() + 5
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, repr(stream.getvalue()[-80:])
        time.sleep(0.01)


def on_screen(written):
    """What a terminal shows at last: each piece behind a carriage return is written over the one before."""
    screen = ""
    for piece in written.split("\r"):
        screen = piece + screen[len(piece) :]
    return screen.rstrip(" ")


def test_a_terminal_sees_each_step_and_the_seconds_and_at_the_end_an_empty_line(monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    with working("Making it"):
        wait_for(terminal, "Making it ... 0 s")
        for step in ("a first and long step", "second"):
            doing(step)
            wait_for(terminal, f"Making it: {step} ... 0 s")
        assert on_screen(terminal.getvalue()) == "Making it: second ... 0 s"
    assert on_screen(terminal.getvalue()) == ""
    doing("nothing")


def test_what_is_over_soon_says_nothing(monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    monkeypatch.setattr(progress, "PATIENCE", 60)
    with working("Making it"):
        doing("all")
    assert terminal.getvalue() == ""


def test_the_outermost_line_is_the_one_that_is_shown(monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    with working("The whole", announced=True):
        with working("A part"):
            doing("this")
            wait_for(terminal, "The whole: this ... 0 s")
        wait_for(terminal, "The whole: this ... 0 s")
    assert "A part" not in terminal.getvalue()
    assert re.fullmatch(r"The whole \.\.\. 0\.\d s *\n", on_screen(terminal.getvalue()))


def test_a_line_is_no_wider_than_the_terminal(monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    monkeypatch.setenv("COLUMNS", "30")
    with working("x" * 50):
        wait_for(terminal, "... 0 s")
    assert max(map(len, terminal.getvalue().split("\r"))) < 30


def test_an_error_leaves_no_line_behind(monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    with pytest.raises(KeyError), working("Making it"):  # noqa: PT012
        wait_for(terminal, "Making it")
        raise KeyError
    assert on_screen(terminal.getvalue()) == ""


@pytest.mark.parametrize("announced", [False, True])
def test_a_log_gets_no_frames(announced, monkeypatch):
    log = opened(monkeypatch, io.StringIO())
    with working("Making it", announced):
        doing("all")
        time.sleep(0.05)
    assert re.fullmatch(r"Making it \.\.\. 0\.\d s\n" if announced else "", log.getvalue())


def test_nobody_listens(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with working("Making it", announced=True):
        doing("all")


@pytest.mark.parametrize("shown", [True, False])
def test_an_export_says_what_it_does_unless_it_is_told_not_to(shown, tmp_path, monkeypatch):
    terminal = opened(monkeypatch, Terminal())
    export_onnx(tiny_model(tiny_config("llama", num_hidden_layers=1)), tmp_path / "model.onnx", progress=shown)
    written = terminal.getvalue()
    for step in ("tracing", "translating"):
        assert (f"Exporting LlamaForCausalLM: {step} ... " in written) is shown
    assert bool(written) is shown
