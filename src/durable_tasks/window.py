"""Reading jobs in the order of an index, a bounded number of rows at a time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BooleanField, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.utils import timezone
from django.utils.translation import gettext as _

from .models import Job
from .search_text import SearchError, is_beyond
from .state import Count
from .statuses import ENDED, JobStatus
from .store import store_for

if TYPE_CHECKING:
    from .search import JobSearch

TABLE = Job._meta.db_table
# Columns with whether they descend: those of an index, from its first on.
type Order = tuple[tuple[str, bool], ...]
# The values of an order's columns in the last row that was looked at.
type Position = tuple[Any, ...]

BY_ID: Order = (("id", True),)
BY_QUEUE: Order = (
    *(("backend_name", False), ("queue_name", False), ("priority", True)),
    *(("run_at", False), ("id", False)),
)
BY_TIME: Order = (("run_at", False), ("id", False))
BY_WORKER: Order = (("worker_id", False), ("id", False))
BY_TASK: Order = (("task_path", False), ("id", False))
BY_END: Order = (("finished_at", True), ("id", True))
_ORDERS = {
    JobStatus.READY: BY_QUEUE,
    JobStatus.SCHEDULED: BY_TIME,
    JobStatus.PAUSED: BY_TASK,
    JobStatus.RUNNING: BY_WORKER,
}
# Between the clocks of those who make ids, of those who enqueue and of the database.
SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Found:
    """What a look has found.

    ``after``: goes on from here, None at the end. ``looked``: how many rows were looked at, at
    least; ``looked_to``: the time of the last one, if times order them.
    """

    ids: list[UUID]
    after: Position | None
    looked: int
    looked_to: datetime | None = None


class Window:
    """A search in one database, served by an index."""

    def __init__(self, search: "JobSearch", connection: BaseDatabaseWrapper) -> None:
        self.search = search
        self.connection = connection
        self.using = connection.alias
        self.store = store_for(connection)
        # MySQL and MariaDB have no partial indexes: theirs lead with the status.
        self.partial = connection.features.supports_partial_indexes
        self.order = self._order()
        self.names = [name for name, _ in self.order]
        # What no index serves is looked for among the rows that are read.
        self.conditions = search.conditions()
        self.base = self._base()
        self.prefixes = self._prefixes()

    def _order(self) -> Order:
        if self.search.id or not self.search.status:
            return BY_ID
        order = _ORDERS.get(JobStatus(self.search.status), BY_END)
        return BY_TIME if order is BY_TASK and not self.partial else order

    def _base(self) -> "QuerySet[Job]":
        """Return the rows to look at, in order; take off the conditions that this serves."""
        jobs = Job.objects.using(self.using).order_by(
            *(f"-{name}" if descends else name for name, descends in self.order)
        )
        if self.order is BY_ID:
            ids = self.conditions.pop("id", Q())
            return jobs.filter(ids, *self._id_bounds())
        if self.order is BY_END and self.search.since:
            # What was enqueued since has ended since.
            jobs = jobs.filter(finished_at__gte=self.search.since - SKEW)
        if self.order is BY_END and self.partial and self.search.status != JobStatus.FAILED:
            return jobs.filter(_status_is(*ENDED))  # in the index are all three
        self._serves("status")
        return jobs.filter(_status_is(self.search.status))

    def _id_bounds(self) -> Iterator[Q]:
        """Yield conditions that the times asked for mean for ids of version 7."""
        since, until = self.search.since, self.search.until
        if not (since or until) or not self._ids_tell_times():
            return
        if since:
            yield Q(id__gte=_uuid7_at(since - SKEW, 0))
        if until:
            yield Q(id__lte=_uuid7_at(until + SKEW, -1))

    def _ids_tell_times(self) -> bool:
        """Return whether all ids are of version 7, as the least and the greatest tell.

        Random ones would be below or above those of this century.
        """
        ids = Job.objects.using(self.using).values_list("id", flat=True)
        ends = [*ids.order_by("id")[:1], *ids.order_by("-id")[:1]]
        return all(id.version == 7 for id in ends)

    # Positions --------------------------------------------------------------------------------

    def text_of(self, position: Position | None) -> str | None:
        """Return a position as the text of a link."""
        if position is None:
            return None
        return json.dumps([each if isinstance(each, str | int) else str(each) for each in position])

    def parse(self, text: str | None) -> Position | None:
        """Return the position that a link goes on from. Raises ``SearchError`` if it is none."""
        if not text:
            return None
        try:
            values = json.loads(text)
            if None in values:
                raise ValueError(text)
            position = tuple(
                Job._meta.get_field(name).clean(value, None)  # type: ignore[union-attr]
                for name, value in zip(self.names, values, strict=True)
            )
            if any(map(is_beyond, position)):
                raise ValueError(text)
            return position
        except (ValueError, TypeError, OverflowError, RecursionError, ValidationError) as error:
            raise SearchError(_("The link does not lead to a page of this list.")) from error

    # Looking ----------------------------------------------------------------------------------

    def look(self, after: Position | None, size: int, window: int) -> Found:
        """Return the first ``size`` ids after a position, among the next ``window`` rows."""
        with self.store.pinned_plans():
            return self._look(after, size, window)

    def _look(self, after: Position | None, size: int, window: int) -> Found:
        found: list[Position] = []
        left = window
        for condition in self._ranges(after):
            rows = self.base.filter(condition)[:left]
            new = self._matching(rows, size + 1 - len(found))
            found += new
            if len(found) > size:
                return Found(self._ids(found[:size]), found[size - 1], size)
            looked = rows.count() if self.conditions else len(new)
            left -= looked
            if not left:
                last = rows.values_list(*self.names)[looked - 1 : looked].first()
                return Found(self._ids(found), last, window, self._time(last))
        return Found(self._ids(found), None, window - left)

    def _ids(self, positions: Sequence[Position]) -> list[UUID]:
        return [position[-1] for position in positions]

    def _time(self, position: Position | None) -> datetime | None:
        """Return the time that the order leads to here, if it does."""
        if position is None:
            return None
        if isinstance(position[0], datetime):
            return position[0]
        return time_of(position[0]) if isinstance(position[0], UUID) else None

    def _ranges(self, after: Position | None) -> Iterator[Q]:
        """Yield conditions that follow each other in the order, each one range of the index.

        A comparison of all columns at once is no range to MariaDB, nor where directions differ.
        """
        for prefix in self.prefixes:
            fixed = dict(zip(self.names, prefix, strict=False))
            if after is None:
                yield Q(**fixed)
                continue
            depth = len(prefix)
            if after[:depth] != prefix:
                if after[:depth] < prefix:
                    yield Q(**fixed)
                continue
            for column in reversed(range(depth, len(self.order))):
                name, descends = self.order[column]
                bound = {f"{name}__{'lt' if descends else 'gt'}": after[column]}
                yield Q(**dict(zip(self.names[:column], after, strict=False)), **bound)

    def _prefixes(self) -> list[tuple[str, ...]]:
        """Return what the order's first columns are equal to, one for each range of the index."""
        search, first = self.search, self.names[0]
        if self.order is BY_QUEUE and search.queue_name:
            names = [search.backend_name] if search.backend_name else self._backends()
            self._serves("backend_name", "queue_name")
            return [(name, search.queue_name) for name in names]
        if self.order in (BY_QUEUE, BY_WORKER, BY_TASK) and (value := getattr(search, first)):
            self._serves(first)
            return [(value,)]
        return [()]

    def _serves(self, *names: str) -> None:
        """Note that an index serves these conditions."""
        for name in names:
            self.conditions.pop(name, None)

    def _backends(self) -> list[str]:
        """Return the backends that have jobs in this order, one look-up each."""
        names: list[str] = []
        values = self.base.values_list("backend_name", flat=True)
        while found := list(values.filter(backend_name__gt=names[-1] if names else "")[:1]):
            names += found
        return names

    def _matching(self, rows: "QuerySet[Job]", size: int) -> list[Position]:
        """Return where the first of these rows are that match the rest, in order."""
        if not self.conditions:
            return list(rows.values_list(*self.names)[:size])
        jobs = Job.objects.using(self.using).raw(*self._statement(rows, size))
        return [tuple(getattr(job, name) for name in self.names) for job in jobs]

    def count(self, most: int) -> Count:
        """Return how many match among the first ``most`` rows."""
        with self.store.pinned_plans():
            return self._count(most)

    def _count(self, most: int) -> Count:
        found, left = 0, most
        for condition in self._ranges(None):
            if not self.conditions:
                found += self.base.filter(condition)[: most + 1 - found].count()
                continue
            rows = self.base.filter(condition)[:left]
            statement, params = self._statement(rows, left)
            with self.connection.cursor() as cursor:
                cursor.execute(f"SELECT COUNT(*) FROM ({statement}) found", params)
                found += cursor.fetchone()[0]
            left -= rows.count()
            if not left:
                return Count(found, is_more=True)
        return Count(min(found, most), is_more=found > most)

    def _statement(self, rows: "QuerySet[Job]", size: int) -> tuple[str, list[Any]]:
        """Return what reads those of these rows that match the rest."""
        # Only what is needed: MariaDB writes the rows of the window down before it looks at them.
        inner, inner_params = self._sql(rows.values_list(*{*self.names, *self.search.columns()}))
        outer, outer_params = self._sql(
            Job.objects.using(self.using)
            .filter(*self.conditions.values())
            .order_by(*self.base.query.order_by)
            .values_list(*self.names)[:size]
        )
        # The window takes the table's place under its name: no database takes a limit in IN ().
        table = self.connection.ops.quote_name(TABLE)
        head, tail = outer.split(f" FROM {table}", 1)
        return f"{head} FROM ({inner}) {table}{tail}", [*inner_params, *outer_params]

    def _sql(self, jobs: "QuerySet[Any, Any]") -> tuple[str, Sequence[Any]]:
        return jobs.query.get_compiler(self.using).as_sql()  # type: ignore[no-any-return]


def _status_is(*statuses: str) -> RawSQL:
    """Return a condition with the statuses in its text.

    A partial index serves only what the planner can see to be a part of it.
    """
    values = ", ".join(f"'{JobStatus(status).value}'" for status in statuses)
    sql = f"{TABLE}.status IN ({values})" if len(statuses) > 1 else f"{TABLE}.status = {values}"
    return RawSQL(sql, (), output_field=BooleanField())


def _uuid7_at(time: datetime, rest: int) -> UUID:
    """Return the least (``rest``: 0) or the greatest (-1) id of version 7 made at a time."""
    stamp = max(int(time.timestamp() * 1000), 0) << 80
    # With version and variant: MariaDB sorts ids without them in another order.
    return UUID(int=stamp | rest & 0x0FFF_3FFF_FFFF_FFFF_FFFF | 0x7000_8000_0000_0000_0000)


def time_of(id: UUID) -> datetime | None:
    """Return when an id of version 7 was made, as Django's settings want it; None of others."""
    if id.version != 7:
        return None
    try:
        time = datetime.fromtimestamp((id.int >> 80) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return time if settings.USE_TZ else timezone.make_naive(time)
