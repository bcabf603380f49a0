"""Ids of jobs, time-ordered by default or made by ``OPTIONS["id_function"]``; names of workers."""

import os
import secrets
import socket
import sys
import threading
import time
import uuid
from typing import Any

from .compat import EXPRESSION_IDS
from .exceptions import DurableTasksError

_UNKNOWN = uuid.SafeUUID.unknown
_set = object.__setattr__


def uuid_of(number: int) -> uuid.UUID:
    """Return the UUID with this number, without the checks of ``UUID()``, which take four times as
    long."""
    made = object.__new__(uuid.UUID)
    _set(made, "int", number)
    _set(made, "is_safe", _UNKNOWN)
    return made


if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    _lock = threading.Lock()
    _last_stamp = 0

    def uuid7() -> uuid.UUID:
        """Return a UUID of version 7 that is greater than all this process made before.

        Layout: RFC 9562, section 5.7; the 12 bits after the milliseconds hold the fraction of the
        millisecond (section 6.2, method 3) and move on by at least one step at each call.
        """
        global _last_stamp
        # 60 bits: milliseconds and 1/4096 of a millisecond.
        stamp = time.time_ns() * 4096 // 1_000_000
        with _lock:
            if stamp <= _last_stamp:
                stamp = _last_stamp + 1
            _last_stamp = stamp
        high = (stamp >> 12) << 16 | 0x7000 | stamp & 0xFFF
        low = 0b10 << 62 | int.from_bytes(os.urandom(8)) >> 2
        return uuid_of(high << 64 | low)


def checked_id(value: Any) -> Any:
    """Return what an ``id_function`` made as a ``UUID``, or as it is if it is an expression.

    Raises ``DurableTasksError`` for anything else.
    """
    if isinstance(value, uuid.UUID):
        return value
    if hasattr(value, "resolve_expression"):
        if EXPRESSION_IDS:
            return value
        raise DurableTasksError(
            "id_function returned a database expression; these need Django 6.0 or later. "
            "Use a function that returns a uuid.UUID."
        )
    if isinstance(value, str):
        try:
            return uuid.UUID(value)
        except ValueError:
            pass
    raise DurableTasksError(
        f"id_function must return a uuid.UUID or a string of one, not {value!r}."
    )


def new_worker_id() -> str:
    """Return a name that no other process has."""
    return f"{socket.gethostname()[:160]}-{os.getpid()}-{secrets.token_hex(4)}"
