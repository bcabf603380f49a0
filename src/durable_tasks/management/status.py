"""What ``tasks_status`` shows: one look at the jobs as lines of text, for a screen of any size."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from ..health import shown
from ..history import Totals, by_hour, error_groups, series, totals
from ..models import ErrorGroup
from ..state import Look, QueueState, WorkerState
from . import plain

# A text and its style, one of STYLES.
type Part = tuple[str, str]
STYLES = {"": "", "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
# Seconds over which the throughput is taken.
LATELY = 300
# Groups of errors that are shown at most.
MOST_ERRORS = 10
MIB = 1024 * 1024


@dataclass(slots=True)
class Section:
    """A table. ``numbers``: columns that are aligned at the right; the last column gives way."""

    title: str
    head: Sequence[str]
    rows: list[list[Part]]
    numbers: frozenset[int] = frozenset()
    empty: Part = ("none", "dim")
    hidden: int = 0
    # Whether an empty line comes before it.
    gap: bool = True

    @property
    def height(self) -> int:
        """Lines that it takes."""
        return 1 + self.gap + (1 + len(self.rows) if self.rows else 0) + (self.hidden > 0)

    def lines(self) -> Iterator[list[Part]]:
        """Yield its lines."""
        if self.gap:
            yield []
        if not self.rows:
            yield [(f"{self.title}  ", "bold"), self.empty]
            return
        yield [(self.title, "bold")]
        columns = [[(name, "dim") for name in self.head], *self.rows]
        widths = [max(cells(row[n][0]) for row in columns) for n in range(len(self.head))]
        for row in columns:
            line: list[Part] = []
            for n, (text, style) in enumerate(row):
                space = " " * (widths[n] - cells(text))
                line.append(("  ", ""))
                line += [(space, ""), (text, style)] if n in self.numbers else [(text, style)]
                if n not in self.numbers and n < len(row) - 1:
                    line.append((space, ""))
            yield line
        if self.hidden:
            yield [(f"  ... and {self.hidden:,} more", "dim")]


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def span(seconds: float | None) -> str:
    """Return a time as people read it: ``"340 ms"``, ``"1.2 s"``, ``"12m30s"``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else shown(seconds)


def screen(look: Look, width: int = 200, height: int | None = None) -> list[list[Part]]:
    """Return the lines of one look.

    ``width``: columns; tables are not cut here. ``height``: how many lines there may be, None for
    all. Raises ``django.db.Error`` if the database can't be asked.
    """
    queues, workers = look.queues(), look.workers()
    names = f"backend {next(iter(look.backends))}" if len(look.backends) == 1 else "all backends"
    top = [
        [("durable tasks  ", "bold"), (f"{names}, {look.at:%H:%M:%S} (database time)", "dim")],
        [],
        *_flow([*_now(queues, workers), *_history(look), *_paused(look)], width),
    ]
    sections = [_queues(look, queues), _workers(workers), _late(look), _errors(look)]
    if height is not None:
        _fit(sections, height - len(top))
    return [*top, *(line for each in sections for line in each.lines())][:height]


def _fit(sections: Sequence[Section], height: int) -> None:
    """Leave out empty lines, and then rows of whichever has the most, until all fit or none can."""
    while sum(each.height for each in sections) > height:
        largest = max(sections, key=lambda each: len(each.rows))
        if sections[0].gap:
            for each in sections:
                each.gap = False
        elif len(largest.rows) > 1:
            largest.rows.pop()
            largest.hidden += 1
        else:
            break


def _flow(chunks: Sequence[list[Part]], width: int) -> Iterator[list[Part]]:
    """Yield lines of as many chunks as fit, each of which stays together."""
    line: list[Part] = []
    for chunk in chunks:
        if line and sum(cells(text) for text, _ in [*line, *chunk]) + 3 > width:
            yield line
            line = []
        line += [("   ", ""), *chunk] if line else chunk
    yield line


def _now(queues: Sequence[QueueState], workers: Sequence[WorkerState]) -> Iterator[list[Part]]:
    alive = sum(not (each.is_lost or each.is_silent) for each in workers)
    silent = len(workers) - alive
    yield [
        ("Workers  ", "bold"),
        (f"{alive:,} alive", "" if alive else "red"),
        (f", {silent:,} silent" if silent else "", "red"),
    ]
    running = sum(each.running.value for each in queues)
    slots = sum(each.capacity for each in workers if not each.is_lost)
    yield [("Running  ", "bold"), (f"{running:,} of {slots:,}", "")]


def _history(look: Look) -> Iterator[list[Part]]:
    hour, lately = Totals(), Totals()
    for name in look.backends:
        hour = hour.plus(series("1h", name, using=look.using, now=look.seconds).totals())
        lately = lately.plus(totals(LATELY, name, using=look.using, now=look.seconds))
    rate = hour.failure_rate
    yield [("Throughput  ", "bold"), (f"{lately.ended / (LATELY / 60):,.1f} a minute", "")]
    yield [
        ("Last hour  ", "bold"),
        (f"{hour.ended:,} ended", ""),
        (f", {hour.failed:,} failed ({rate:.1%})" if rate else ", 0 failed", "red" if rate else ""),
        (f", {hour.retried:,} retried, {hour.lost:,} lost", ""),
    ]
    yield [
        ("p95  ", "bold"),
        (f"wait {span(hour.wait_times()[1])}, run {span(hour.run_times()[1])}", ""),
    ]


def _paused(look: Look) -> Iterator[list[Part]]:
    names = [plain(each.row.task_path) for each in look.paused() if each.row.task_path]
    if names:
        yield [("Paused tasks  ", "bold"), (", ".join(names), "yellow")]


def _mixed(look: Look, backend_name: str, name: str) -> str:
    """Return a name, after its backend's if there are several."""
    return plain(name if len(look.backends) == 1 else f"{backend_name}: {name}")


def _queues(look: Look, queues: Sequence[QueueState]) -> Section:
    rows = []
    for each in sorted(queues, key=lambda queue: -queue.waiting):
        by = f" by {each.paused_by}" if each.paused_by else ""
        held = f"{each.paused} of paused tasks" if each.paused.value else ""
        note = f"paused{by}" if each.is_paused else held
        rows.append(
            [
                (_mixed(look, each.backend_name, each.name), "bold"),
                (str(each.ready), ""),
                (span(each.waiting) if each.oldest_due else "-", ""),
                (str(each.scheduled), ""),
                (str(each.running), ""),
                (plain(note), "yellow"),
            ]
        )
    head = ("queue", "ready", "oldest", "scheduled", "running", "")
    return Section("Queues", head, rows, frozenset((1, 2, 3, 4)), ("no jobs", "dim"))


def _workers(workers: Sequence[WorkerState]) -> Section:
    rows = []
    for each in sorted(workers, key=lambda worker: -worker.age):
        state, style = "alive", "green"
        if each.row.wish:
            state, style = f"to {each.row.wish}", "yellow"
        if each.is_silent:
            state, style = ("lost" if each.is_lost else "silent"), "red"
        memory = each.row.memory
        rows.append(
            [
                (plain(each.row.id), "bold"),
                (state, style),
                (span(each.age), style if each.is_silent else ""),
                (str(each.running), ""),
                (f"{each.capacity:,}", ""),
                ("-" if memory is None else f"{memory // MIB:,} MiB", ""),
                (plain(each.row.queues), ""),
            ]
        )
    head = ("worker", "state", "beat", "running", "of", "memory", "queues")
    empty = ("none is running: start one with manage.py db_worker", "red")
    return Section("Workers", head, rows, frozenset((2, 3, 4, 5)), empty)


def _late(look: Look) -> Section:
    rows = [
        [
            (_mixed(look, each.row.backend_name, each.row.name), "bold"),
            (shown(each.late), "red"),
            (plain(each.row.task_path), ""),
        ]
        for each in look.late_schedules()
    ]
    return Section("Late schedules", ("name", "by", "task"), rows, frozenset((1,)))


def _errors(look: Look) -> Section:
    since = look.at - timedelta(hours=1)
    groups: list[ErrorGroup] = []
    for alias in look.backends:
        groups += error_groups(since, alias, using=look.using, most=MOST_ERRORS)
    lately: Callable[[ErrorGroup], int] = partial(_of_a_day, now=look.seconds)
    rows = []
    for group in sorted(groups, key=lately, reverse=True)[:MOST_ERRORS]:
        ago = max(0.0, (look.at - group.last_seen).total_seconds())
        rows.append(
            [
                (plain(group.exception_class_path), "red"),
                (f"{lately(group):,}", ""),
                (span(ago), ""),
                (plain(group.place or group.task_path), ""),
                (plain(group.message), "dim"),
            ]
        )
    head = ("error", "in 24 h", "ago", "where", "the last says")
    return Section("Errors of the last hour", head, rows, frozenset((1, 2)))


def _of_a_day(group: ErrorGroup, now: float) -> int:
    return sum(by_hour(group, now, 24))


def paint(line: Sequence[Part], width: int | None, *, colour: bool) -> str:
    """Return a line as a terminal takes it, cut to ``width`` columns."""
    left = width
    painted = ""
    for whole, style in line:
        text = whole
        if left is not None:
            while cells(text) > left:
                text = text[:-1]
            left = left - cells(text) if text == whole else 0
        code = STYLES[style]
        painted += f"\x1b[{code}m{text}\x1b[0m" if colour and code and text else text
    return painted if colour else painted.rstrip()
