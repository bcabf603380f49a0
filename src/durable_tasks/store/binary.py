"""PostgreSQL's binary formats: a batch of rows as a handful of arrays, and new rows for COPY.

The formats are those of ``array_recv()`` and of each type's receive function in PostgreSQL's source
(``src/backend/utils/adt``), and of "Binary Format" in its manual's page of COPY. All integers are
big-endian. A value is its length in bytes and the bytes, or -1 for null; an array has before them
the number of dimensions, whether there may be nulls, the element's type, and the dimension's length
and lower bound.

Several times as fast to make as text, and the server need not parse it.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from struct import Struct, pack
from struct import error as StructError
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from .messages import NewJob

NULL = pack("!i", -1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Array(bytes):
    """An array as a parameter; the statement's cast says of which type it is."""


def register(driver: Any) -> None:
    """Let a psycopg connection take ``Array``."""
    driver.adapters.register_dumper(Array, _dumper())


@cache
def _dumper() -> type:
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    class ArrayDumper(Dumper):
        format = Format.BINARY

        def dump(self, obj: Any) -> bytes:
            return bytes(obj)

    return ArrayDumper


def array(kind: str, values: Sequence[Any], zone: ZoneInfo | None) -> Array:
    """Return the values as an array of ``kind``, one of those in ``ELEMENTS``.

    ``zone``: what times without a zone are in. Raises ``OverflowError`` for a number that is too
    large for its type.
    """
    oid, encode = ELEMENTS[kind]
    if kind == "timestamptz" and zone is not None:
        values = [value and value.replace(tzinfo=zone) for value in values]
    return Array(pack("!iiIii", 1, 1, oid, len(values), 1) + encode(values))


def _numbers(code: str, size: int) -> Callable[[Sequence[int]], bytes]:
    element = Struct(f"!i{code}").pack

    def encode(values: Sequence[int]) -> bytes:
        try:
            return b"".join([element(size, value) for value in values])
        except StructError as error:
            raise OverflowError(f"A number does not fit {size} bytes: {error}") from error

    return encode


_length = Struct("!i").pack
_long = Struct("!iq").pack


def _time(value: datetime) -> bytes:
    return _long(8, (value - _EPOCH) // _MICROSECOND)


def _text(value: str) -> bytes:
    data = value.encode()
    return _length(len(data)) + data


def _json(value: str) -> bytes:
    data = value.encode()
    return _length(len(data) + 1) + b"\x01" + data  # the format's only version so far


def _id(value: UUID) -> bytes:
    return b"\0\0\0\x10" + value.bytes


def _each(element: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], bytes]:
    def encode(values: Sequence[Any]) -> bytes:
        return b"".join([NULL if value is None else element(value) for value in values])

    return encode


# Of each element type its oid (pg_type.dat) and what encodes its elements.
ELEMENTS: dict[str, tuple[int, Callable[[Sequence[Any]], bytes]]] = {
    "uuid": (2950, _each(_id)),
    "int2": (21, _numbers("h", 2)),
    "int4": (23, _numbers("i", 4)),
    "text": (25, _each(_text)),
    "jsonb": (3802, _each(_json)),
    "timestamptz": (1184, _each(_time)),
}


# COPY -----------------------------------------------------------------------------------------

COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = pack("!h", -1)
# The number of columns: those of a NewJob, and three that begin at 0.
_ROW = pack("!h", len(NewJob.__slots__) + 3)
_ZEROS = pack("!iiihii", 4, 0, 2, 0, 4, 0)  # attempts, lost, lease


@lru_cache(maxsize=256)
def _same(status: str, backend_name: str, queue_name: str, priority: int, task_path: str) -> bytes:
    """Return the columns that many new jobs share."""
    names = _text(status) + _text(backend_name) + _text(queue_name)
    return names + pack("!ih", 2, priority) + _text(task_path)


def _time_in(value: datetime, zone: ZoneInfo | None) -> bytes:
    return _time(value if zone is None else value.replace(tzinfo=zone))


def copy_row(row: NewJob, zone: ZoneInfo | None) -> bytes:
    """Return a new job as a row of COPY, its columns in the order of ``NewJob``."""
    at = _time_in(row.enqueued_at, zone)
    return b"".join(
        (
            _ROW,
            _id(row.id),
            _same(row.status, row.backend_name, row.queue_name, row.priority, row.task_path),
            _json(row.args),
            _json(row.kwargs),
            NULL if row.run_after is None else _time_in(row.run_after, zone),
            at if row.run_at is row.enqueued_at else _time_in(row.run_at, zone),
            at,
            NULL if row.schedule is None else _text(row.schedule),
            _ZEROS,
        )
    )
