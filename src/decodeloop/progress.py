"""What takes seconds says so: one line on a terminal's stderr, of what is being done and for how long."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

#: Seconds after which somebody who waits begins to wonder.
PATIENCE = 3.0
EVERY = 0.5


@contextlib.contextmanager
def working(what: str, announced: bool = False) -> Iterator[None]:
    """While the block runs, a terminal shows a line of it, which goes away at the end; a log or a pipe gets nothing.

    Parameters
    ----------
    what : str
    announced : bool
        Say it at once, to a log too, and how long it took at the end. Otherwise the line comes after a few seconds.

    Notes
    -----
    Within another such block, it is the outer one that shows the line.
    """
    if _shown.get() is not None:
        yield
        return
    line = _Line(what, announced)
    token = _shown.set(line)
    line.begin()
    try:
        yield
    except BaseException:
        line.end(done=False)
        raise
    else:
        line.end(done=True)
    finally:
        _shown.reset(token)


def doing(step: str) -> None:
    """What the work that is shown does from now on, such as ``"tracing"``."""
    line = _shown.get()
    if line is not None:
        line.step = f": {step}"


class _Line:
    def __init__(self, what: str, announced: bool) -> None:
        self.what, self.announced, self.step, self.width = what, announced, "", 0
        self.stream, self.began, self.over = sys.stderr, time.perf_counter(), threading.Event()
        self.thread = threading.Thread(target=self._tick, daemon=True)
        self.watched = self.stream is not None and self.stream.isatty()

    def begin(self) -> None:
        if self.announced:
            self._write(f"{self.what} ...")
        if self.watched:
            self.thread.start()

    def end(self, done: bool) -> None:
        self.over.set()
        if self.watched:
            self.thread.join()
        if self.announced:
            said = f"{time.perf_counter() - self.began:.1f} s" if done else ""
            self._write(self._over(f"{self.what} ... {said}") + "\n" if self.watched else f" {said}\n")
        elif self.width:
            self._write(self._over("") + "\r")

    def _tick(self) -> None:
        wait = EVERY if self.announced else PATIENCE
        while not self.over.wait(wait):
            seconds = f" ... {time.perf_counter() - self.began:.0f} s"
            room = shutil.get_terminal_size().columns - len(seconds) - 1
            self._write(self._over(f"{self.what}{self.step}"[: max(room, 0)] + seconds))
            wait = EVERY

    def _over(self, text: str) -> str:
        """The text at the beginning of the line, with blanks over what stood there."""
        before, self.width = self.width, len(text)
        return "\r" + text.ljust(before)

    def _write(self, text: str) -> None:
        if self.stream is not None:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile: nobody to tell
                self.stream.write(text)
                self.stream.flush()


_shown: ContextVar[_Line | None] = ContextVar("shown", default=None)
