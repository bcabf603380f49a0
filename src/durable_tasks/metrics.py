"""The endpoint for Prometheus; needs the extra ``metrics``.

All is read from the database when it is asked for: any web process answers for all workers, and
nothing is lost or counted twice when one starts anew. Counters are the rows of ``Statistic`` for
all time, which are never deleted, so that they never fall; they are a minute behind.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import fsum, inf
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseFault
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .health import not_atomic
from .histogram import add, middle
from .history import COUNTS, Totals, totals_by_task
from .state import MOST_IN_ALL, MOST_OTHERS, Look, WorkerState

if TYPE_CHECKING:
    from prometheus_client import Metric

PERMISSION = "durable_tasks.view_job"
# Seconds: the upper bounds of a histogram's buckets.
BOUNDS = (
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0),
)
# What a row of Statistic for all time is found by.
ALL_TIME = (0, 0, 1)


def view(*, token: str | None = None) -> Callable[[HttpRequest], HttpResponse]:
    """Return a view of the metrics.

    ``token``: who sends it as a bearer token may read; None: nobody may by a token. So may active
    staff with the permission to view jobs. Raises ``ImproperlyConfigured`` for a bad token, or if
    prometheus-client is not installed.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ImproperlyConfigured(
            "durable_tasks.metrics needs prometheus-client: install django-durable-tasks[metrics]."
        ) from error
    if token is not None and not (isinstance(token, str) and token.strip()):
        raise ImproperlyConfigured("durable_tasks.metrics: token must be a text that is not empty.")

    @not_atomic
    @never_cache
    @require_safe
    def metrics(request: HttpRequest) -> HttpResponse:
        try:
            return _refusal(request, token) or _answer(request)
        except DatabaseFault:
            return _text("The database can't be asked.", 503)

    return metrics


def _refusal(request: HttpRequest, token: str | None) -> HttpResponse | None:
    """Return the answer to those who may not read the metrics."""
    if _has_token(request, token):
        return None
    user = getattr(request, "user", None)  # absent without Django's middleware
    if user is None or not user.is_authenticated:
        headers = {"WWW-Authenticate": 'Bearer realm="durable_tasks"'}
        return _text("A bearer token is needed.", 401, headers)
    if not (user.is_active and user.is_staff and user.has_perm(PERMISSION)):
        return _text("You may not view jobs.", 403)
    return None


def _text(text: str, status: int, headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse(f"{text}\n", "text/plain; charset=utf-8", status, headers=headers)


def _has_token(request: HttpRequest, token: str | None) -> bool:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    return (
        token is not None
        and kind.lower() == "bearer"
        and constant_time_compare(given.strip(), token.strip())
    )


def _answer(request: HttpRequest) -> HttpResponse:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = choose_encoder("")
    return HttpResponse(encode(registry), content_type=content_type)


class Collector:
    """What a registry of prometheus-client asks: reads the database at each scrape."""

    def describe(self) -> list["Metric"]:
        """Name nothing beforehand: registering then asks no database."""
        return []

    def collect(self) -> Iterator["Metric"]:
        """Yield all metrics, at a cost that does not grow with the jobs."""
        look = Look()
        yield from _queues(look)
        yield from _workers(look)
        yield from _schedules(look)
        yield from _totals(look)


def _gauge(name: str, text: str, labels: Iterable[str], values: Iterable[Any]) -> "Metric":
    """Return a gauge. ``values``: pairs of the labels' values and the figure."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"durable_tasks_{name}", text, labels=list(labels))
    for of, value in values:
        family.add_metric(of, value)
    return family


def _queues(look: Look) -> Iterator["Metric"]:
    queues = look.queues()
    yield _gauge(
        "jobs",
        f"Jobs that wait or run, by status. Of all queues together, {MOST_IN_ALL} ready ones are "
        f"counted, and {MOST_OTHERS} of each other status: there may be more. "
        "Paused: due, but their task is paused.",
        ("backend", "queue", "status"),
        [
            ((each.backend_name, each.name, status), getattr(each, status).value)
            for each in queues
            for status in ("ready", "scheduled", "running", "paused")
        ],
    )
    yield _gauge(
        "oldest_waiting_seconds",
        "For how long the job that is due longest has waited; 0 if none waits.",
        ("backend", "queue"),
        [((each.backend_name, each.name), each.waiting) for each in queues],
    )
    yield _gauge(
        "queue_paused",
        "1 if the queue is paused, else 0.",
        ("backend", "queue"),
        [((each.backend_name, each.name), int(each.is_paused)) for each in queues],
    )
    yield _gauge(
        "task_paused",
        "1 for each task that is paused.",
        ("backend", "task"),
        [
            ((each.row.backend_name, each.row.task_path), 1)
            for each in look.paused()
            if each.row.task_path
        ],
    )


def _workers(look: Look) -> Iterator["Metric"]:
    workers = look.workers()
    states = Counter((each.row.backend_name, _state(each)) for each in workers)
    yield _gauge(
        "workers",
        "Workers: alive; silent, not seen for half of worker_timeout; lost, for all of it.",
        ("backend", "state"),
        [
            ((alias, state), states[alias, state])
            for alias in look.backends
            for state in ("alive", "silent", "lost")
        ],
    )
    capacity: Counter[str] = Counter()
    age = dict.fromkeys(look.backends, 0.0)
    for each in workers:
        capacity[each.row.backend_name] += 0 if each.is_lost else each.capacity
        age[each.row.backend_name] = max(age[each.row.backend_name], each.age)
    yield _gauge(
        "capacity",
        "Jobs that the workers, but for lost ones, run at once.",
        ("backend",),
        [((alias,), capacity[alias]) for alias in look.backends],
    )
    yield _gauge(
        "oldest_heartbeat_seconds",
        "The age of the last heartbeat of the worker whose is oldest; 0 without workers.",
        ("backend",),
        [((alias,), seconds) for alias, seconds in age.items()],
    )


def _state(worker: WorkerState) -> str:
    return "lost" if worker.is_lost else "silent" if worker.is_silent else "alive"


def _schedules(look: Look) -> Iterator["Metric"]:
    late = look.late_schedules()
    counts = Counter(each.row.backend_name for each in late)
    yield _gauge(
        "late_schedules",
        "Periodic tasks that should have run more than a minute ago.",
        ("backend",),
        [((alias,), counts[alias]) for alias in look.backends],
    )


def _totals(look: Look) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    rows: dict[tuple[str, str, str], Totals] = {}
    for alias in look.backends:
        rows |= totals_by_task(*ALL_TIME, backend=alias, using=look.using)
    runs = CounterMetricFamily(
        "durable_tasks_runs",
        "Runs that ended. Retried: raised, and another run follows. Lost: the worker was; a job "
        "that fails by this counts as failed as well.",
        labels=("backend", "queue", "task", "outcome"),
    )
    times = HistogramMetricFamily(
        "durable_tasks_run_seconds",
        "From the start of a run to its end; at most 12.5 % off.",
        labels=("backend", "queue", "task"),
    )
    waits: dict[tuple[str, str], list[Mapping[int, int]]] = {}
    for key, totals in sorted(rows.items()):
        for outcome in COUNTS:
            runs.add_metric((*key, outcome), getattr(totals, outcome))
        times.add_metric(key, *buckets(totals.runs))
        waits.setdefault(key[:2], []).append(totals.waits)
    delays = HistogramMetricFamily(
        "durable_tasks_wait_seconds",
        "From being due to the start of the run; at most 12.5 % off.",
        labels=("backend", "queue"),
    )
    for of, histograms in waits.items():
        delays.add_metric(of, *buckets(add(histograms)))
    yield from (runs, times, delays)


def buckets(histogram: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Return what of a histogram is not above each of ``BOUNDS``, and the sum of all times.

    A bucket of ours counts as a whole where its middle is. The sum is rounded once, at its end: it
    never falls, as a sum of rounded parts in another order might.
    """
    counts = [0] * (len(BOUNDS) + 1)
    for number, count in histogram.items():
        counts[bisect_left(BOUNDS, middle(number))] += count
    total = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip((*BOUNDS, inf), counts, strict=True):
        total += count
        found.append(("+Inf" if bound == inf else str(bound), total))
    return found, fsum(middle(number) * count for number, count in histogram.items())
