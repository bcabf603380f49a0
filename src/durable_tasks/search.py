"""Which jobs somebody looks for, at a cost that does not grow with the table.

No page reads more than ``WINDOW`` rows. The rows are read in the order of an index that the status
decides on; what no index serves is looked for among these. A page that is not full says how far
it has looked, and the next one goes on from there.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode
from uuid import UUID

from django.db import connections
from django.db.models import Q
from django.db.models.fields.json import KeyTransform, KeyTransformExact

from .models import Job
from .search_text import SearchError, as_text, id_digits, parse_text, parse_time
from .state import Count
from .statuses import JobStatus
from .window import Position, Window

if TYPE_CHECKING:
    from django.http import QueryDict

__all__ = ["WINDOW", "JobSearch", "Page", "SearchError", "Step"]

# Rows that one page looks at.
WINDOW = 10_000

# Not needed to list jobs, and big.
HEAVY = ("args", "kwargs", "metadata", "return_value", "errors", "context")
_TIMES = ("since", "until")


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, in the order of their status.

    ``after``: goes on from here, None if nothing follows. ``looked``: how many rows were looked at
    if the page is not full though more may follow, else 0; ``looked_to``: the time of the last one.
    """

    jobs: list[Job]
    after: str | None = None
    looked: int = 0
    looked_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Some of the jobs that match. ``looked``: how many rows were looked at for them; ``after``:
    goes on from here, None if nothing follows."""

    ids: list[UUID]
    looked: int
    after: str | None


@dataclass(frozen=True, slots=True)
class JobSearch:
    """Which jobs: those that match all that is not empty.

    ``task_path``, ``queue_name`` and the like have to be equal; ``text`` is a part of the task's
    path. ``since``, ``until``: when it was enqueued, as Django's settings want times. ``id``: the
    first digits of it. ``arguments``: pairs of a path, such as ``kwargs.user.id``, and a value.
    ``error_place``: None for any; errors may have an empty one.
    """

    status: str = ""
    backend_name: str = ""
    queue_name: str = ""
    task_path: str = ""
    exception_class_path: str = ""
    error_place: str | None = None
    schedule: str = ""
    worker_id: str = ""
    since: datetime | None = None
    until: datetime | None = None
    id: str = ""
    text: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()

    # To and from links and JSON ---------------------------------------------------------------

    @classmethod
    def from_query(cls, query: "QueryDict") -> Self:
        """Return what the query of a link asks for; names that are no fields are left alone.

        Raises ``SearchError`` that names what can't be searched for.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            name, text = field.name, query.get(field.name, "")
            if "\0" in text:
                raise SearchError(f"{name} contains a NUL character.")
            if name in _TIMES and text:
                found[name] = parse_time(name, text)
            elif (name == "error_place" and name in query) or (name != "arguments" and text):
                found[name] = text
        found |= parse_text(query.get("q", "").replace("\0", " ").strip())
        found["status"] = found.get("status", "").upper()
        return cls(**found)

    def __post_init__(self) -> None:
        if self.status and self.status not in JobStatus.values:
            known = ", ".join(JobStatus.values)
            raise SearchError(f"{self.status!r} is no status. Known: {known}.")
        if self.id:
            digits = id_digits(self.id)
            if not digits:
                raise SearchError(f"{self.id!r} is no id, nor the beginning of one.")
            object.__setattr__(self, "id", digits)

    def to_json(self) -> dict[str, Any]:
        """Return this as what JSON can carry; empty fields are left out."""
        found = {name: value for name, value in self._given().items() if name != "arguments"}
        for name in _TIMES:
            if name in found:
                found[name] = found[name].isoformat()
        if self.arguments:
            found["arguments"] = [list(pair) for pair in self.arguments]
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what ``to_json()`` was made of. Raises ``SearchError`` for anything else."""
        try:
            made = dict(value)
            for name in _TIMES:
                if name in made:
                    made[name] = parse_time(name, made[name])
            made["arguments"] = tuple((path, item) for path, item in made.get("arguments", ()))
            return cls(**made)
        except (TypeError, ValueError) as error:
            raise SearchError(f"This is no search for jobs: {error}") from error

    def as_query(self) -> str:
        """Return this as the query of a link to the list of jobs."""
        found: dict[str, Any] = {
            name: value.isoformat() if name in _TIMES else value
            for name, value in self._given().items()
            if name not in ("id", "text", "arguments")
        }
        if self.id and not parse_text(self.id).get("id"):
            found["id"] = self.id  # too short to be told in the search box
        text = as_text({"id": "" if "id" in found else self.id, **self._texts()})
        return urlencode(found | ({"q": text} if text else {}))

    def text_of_box(self) -> str:
        """Return what the search box shows."""
        return as_text({"id": self.id, **self._texts()})

    def _texts(self) -> dict[str, Any]:
        return {"text": self.text, "arguments": self.arguments}

    def _given(self) -> dict[str, Any]:
        """Return the fields that are not empty."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    # What matches -----------------------------------------------------------------------------

    def matches(self) -> Q:
        """Return the condition on all that is asked for."""
        return Q(*self.conditions().values())

    def conditions(self) -> dict[str, Q]:
        """Return the condition on each field that is asked for."""
        found: dict[str, Q] = {}
        for name, value in self._given().items():
            match name:
                case "since":
                    found[name] = Q(enqueued_at__gte=value)
                case "until":
                    found[name] = Q(enqueued_at__lte=value)
                case "id":
                    first, last = (UUID(value.ljust(32, filler)) for filler in "0f")
                    found[name] = Q(id=first) if first == last else Q(id__range=(first, last))
                case "text":
                    found[name] = Q(task_path__contains=value)
                case "arguments":
                    found[name] = Q(*(_argument(path, item) for path, item in value))
                case _:
                    found[name] = Q(**{name: value})
        return found

    def columns(self) -> set[str]:
        """Return the columns that ``conditions()`` are about."""
        named = {"since": "enqueued_at", "until": "enqueued_at", "text": "task_path"}
        found = {named.get(name, name) for name in self._given() if name != "arguments"}
        return found | {path.partition(".")[0] for path, _ in self.arguments}

    # Reading ----------------------------------------------------------------------------------

    def page(self, using: str, after: str | None = None, size: int = 50) -> Page:
        """Return up to ``size`` jobs of the database ``using``, at most ``WINDOW`` rows read.

        ``after``: of the page before. Raises ``SearchError`` if it is none.
        """
        window = Window(self, connections[using])
        found = window.look(window.parse(after), size, WINDOW)
        jobs = Job.objects.using(using).defer(*HEAVY).in_bulk(found.ids)
        return Page(
            # One that was deleted meanwhile is missing.
            [jobs[id] for id in found.ids if id in jobs],
            window.text_of(found.after),
            found.looked if found.after and len(found.ids) < size else 0,
            found.looked_to,
        )

    def count(self, using: str, most: int = WINDOW) -> Count:
        """Return how many jobs match, at most ``most`` rows read."""
        return Window(self, connections[using]).count(most)

    def steps(
        self, using: str, before: datetime, size: int = 500, after: str | None = None
    ) -> Iterator[Step]:
        """Yield all jobs that match and were enqueued by ``before``, up to ``size`` at a time.

        Each step reads at most ``WINDOW`` rows; a step may have no ids. ``after``: of the last step
        that was done. What is done to a job must not make the next steps find it again.
        """
        until = before if self.until is None else min(self.until, before)
        window = Window(replace(self, until=until), connections[using])
        position: Position | None = window.parse(after)
        while True:
            found = window.look(position, size, WINDOW)
            position = found.after
            yield Step(found.ids, found.looked, window.text_of(position))
            if position is None:
                return

    def pages(self, using: str, before: datetime, size: int = 500) -> Iterator[list[UUID]]:
        """Yield the ids of ``steps()`` that have some."""
        return (step.ids for step in self.steps(using, before, size) if step.ids)


def _argument(path: str, value: Any) -> Q:
    """Return the condition that an argument, or what is inside of it, is equal to a value.

    Of an object or a list: that it has at least this. As a whole they are text to most databases.
    """
    root, *keys = path.split(".")
    if root not in ("args", "kwargs") or not keys:
        raise SearchError(f"{path!r} must begin with args. or kwargs.")
    # A column, not F(): keys may be called as lookups are, such as "contains", or hold "__".
    column: Any = Job._meta.get_field(root).get_col(Job._meta.db_table)  # type: ignore[union-attr]
    return _equal(column, keys, value)


def _equal(found: Any, keys: Iterable[str], value: Any) -> Q:
    for key in keys:
        found = KeyTransform(key, found)
    if value and isinstance(value, list | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return Q(*(_equal(found, [str(key)], item) for key, item in items))
    return Q(_Equal(found, value))


class _Equal(KeyTransformExact):
    """MariaDB takes 5 and "5" for equal."""

    def as_mysql(self, compiler: Any, connection: Any) -> Any:
        sql, params = self.as_sql(compiler, connection)
        type_of, type_params = compiler.compile(self.lhs)
        sign = "=" if isinstance(self.rhs, str) else "<>"
        return f"({sql} AND JSON_TYPE({type_of}) {sign} 'STRING')", (*params, *type_params)
