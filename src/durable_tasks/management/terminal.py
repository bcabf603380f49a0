"""A terminal that is drawn on, and as it was before when that ends."""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Self

# The other screen, without a cursor; and back.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


class Terminal:
    """A context: inside, keys arrive one by one, and the size may change.

    A SIGTERM ends it as Ctrl-C does, by ``KeyboardInterrupt``.
    """

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno()
        self._out = sys.stdout
        self._resized, self._resize = os.pipe()
        os.set_blocking(self._resize, False)
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._keys)
        for number, handler in (
            (signal.SIGWINCH, self._on_resize),
            (signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
            (signal.SIGTERM, signal.default_int_handler),
            (signal.SIGHUP, signal.default_int_handler),
        ):
            self._handlers[number] = signal.signal(number, handler)
        tty.setcbreak(self._keys)
        # Ctrl-Z would leave this screen behind.
        changed = termios.tcgetattr(self._keys)
        changed[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(self._keys, termios.TCSADRAIN, changed)
        self._out.write(_ENTER)
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError, termios.error):  # the terminal may be gone
            self._out.write(_LEAVE)
            self._out.flush()
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._resized)
        os.close(self._resize)

    def _on_resize(self, number: int, frame: FrameType | None) -> None:
        with suppress(BlockingIOError):
            os.write(self._resize, b"!")

    def size(self) -> os.terminal_size:
        """Return columns and lines, as they are now."""
        return os.get_terminal_size(self._out.fileno())

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines instead of what is there; in one go, so that nothing flickers."""
        text = "".join(f"{_END_OF_LINE}\r\n{line}" for line in lines).removeprefix(
            f"{_END_OF_LINE}\r\n"
        )
        self._out.write(f"{_HOME}{text}{_END_OF_LINE}{_REST}")
        self._out.flush()

    def key(self, timeout: float) -> str:
        """Wait up to ``timeout`` seconds for a key; return it.

        Returns "" if there was none or if the size has changed, and "q" where no key can come.
        """
        ready, _, _ = select.select([self._keys, self._resized], [], [], timeout)
        if self._resized in ready:
            os.read(self._resized, 1024)
        if self._keys not in ready:
            return ""
        return os.read(self._keys, 64).decode(errors="replace") or "q"
