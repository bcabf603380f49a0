"""Acting on all jobs that match a search: a task goes through them, and says how far it is."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import OperationalError, connections, router, transaction
from django.utils.translation import gettext as now_gettext
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from . import clock
from .compat import DEFAULT_TASK_QUEUE_NAME, task_backends
from .exceptions import Cancel, DurableTasksError, Snooze
from .models import Job, JobQuerySet, Worker
from .pauses import paused
from .retry import fixed
from .search import JobSearch, Step
from .store import Store, store_for
from .store.byhand import check_priority, check_queue
from .tasks import task

# Jobs that are changed in one transaction.
SIZE = 500
# Seconds after which it makes way for others, and for a worker that wants to stop, and goes on.
SLICE = 10.0
# Seconds between two saves of how far it is, while nothing matches.
SAVE_EVERY = 1.0
# How often a page is tried that meets a conflict with others, such as a deadlock.
TRIES = 10


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do to jobs.

    ``label``: what a button says. ``permission``: the codename of who may. ``argument``: what it
    needs, "queue" or "priority", if not empty. ``word``: does it to the jobs of a queryset and
    returns how many it changed; raises ``ValueError`` for an argument that will not do. ``text``:
    what it did, for a number.
    """

    label: Any
    permission: str
    word: Callable[[JobQuerySet, Any], int]
    text: Any
    argument: str = ""

    def done(self, count: int) -> str:
        """Return what was done to so many jobs, as a sentence without its full stop."""
        return str(self.text % count)


def _move(jobs: JobQuerySet, queue_name: Any) -> int:
    return jobs.move(_queue_of(queue_name))


def _prioritize(jobs: JobQuerySet, priority: Any) -> int:
    return jobs.prioritize(_priority_of(priority))


ACTIONS = {
    "run": Action(
        _("Run now"),
        "run_job",
        lambda jobs, _: jobs.run_now(),
        ngettext_lazy("%d job is due now", "%d jobs are due now"),
    ),
    "retry": Action(
        _("Retry"),
        "retry_job",
        lambda jobs, _: jobs.retry(),
        ngettext_lazy("%d job will run again", "%d jobs will run again"),
    ),
    "cancel": Action(
        _("Cancel"),
        "cancel_job",
        lambda jobs, _: jobs.cancel(),
        ngettext_lazy("%d job was cancelled", "%d jobs were cancelled"),
    ),
    "move": Action(
        _("Change queue"),
        "move_job",
        _move,
        ngettext_lazy("%d job was moved to the queue", "%d jobs were moved to the queue"),
        "queue",
    ),
    "prioritize": Action(
        _("Change priority"),
        "prioritize_job",
        _prioritize,
        ngettext_lazy("%d job has the new priority", "%d jobs have the new priority"),
        "priority",
    ),
    "copy": Action(
        _("Enqueue a copy"),
        "copy_job",
        lambda jobs, _: jobs.copy(),
        ngettext_lazy("%d copy was enqueued", "%d copies were enqueued"),
    ),
    "mark": Action(
        _("Mark for deletion"),
        "mark_job",
        lambda jobs, _: jobs.mark(),
        ngettext_lazy("%d job was marked for deletion", "%d jobs were marked for deletion"),
    ),
    "delete": Action(
        _("Delete"),
        "delete_job",
        lambda jobs, _: jobs.discard(),
        ngettext_lazy("%d job was deleted", "%d jobs were deleted"),
    ),
}


# What lets jobs run once more. Of jobs that act on all that match it would do what others were
# allowed to, and to copies of copies: only who selects them, and may do what they do, repeats them.
REPEATS = frozenset({"run", "retry", "copy"})


def start(search: JobSearch, action: str, argument: Any, user: Any, using: str) -> UUID:
    """Enqueue a job that does ``action`` to all that match now; return its id.

    ``action``: a key of ``ACTIONS``. ``argument``: what that needs, or None. ``user``: who wants it
    so, or the name. ``using``: the jobs' database. ``Job.metadata["bulk"]`` tells how far it is.
    Raises ``ValueError`` for an action or an argument that will not do.
    """
    backend = _backend(search.backend_name)
    argument = _checked(action, argument, search.backend_name)
    by = user if isinstance(user, str) else user.get_username()
    before = clock.now().isoformat()
    count = search.count(using)
    asked = {"action": action, "argument": argument, "search": search.to_json(), "by": by}
    progress = {
        **asked,
        "before": before,
        "looked": 0,
        "changed": 0,
        "total": None if count.is_more else count.value,
        "after": None,
    }
    call = act.using(backend=backend.alias, queue_name=_queue(backend, using))
    with transaction.atomic(using=using):
        id = UUID(call.enqueue(**asked, before=before).id)
        if not backend.durable_options.immediate:  # otherwise it has ended
            Job.objects.using(using).filter(id=id).update(metadata={"bulk": progress})
    return id


def _checked(action: str, argument: Any, backend_name: str) -> Any:
    """Return the argument of an action as JSON has it. Raises ``ValueError``."""
    if action not in ACTIONS:
        raise ValueError(f"{action!r} is no action; there are {', '.join(ACTIONS)}.")
    match ACTIONS[action].argument:
        case "queue":
            argument = _queue_of(argument)
            for alias in [backend_name] if backend_name else [each.alias for each in _backends()]:
                check_queue(alias, argument)
            return argument
        case "priority":
            return _priority_of(argument)
    return None


def _queue_of(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(now_gettext("A queue is missing."))
    return value.strip()


def _priority_of(value: Any) -> int:
    try:
        priority = int(value) if isinstance(value, str) else value
    except ValueError:
        priority = value
    check_priority(priority)
    return priority


# Where it runs ----------------------------------------------------------------------------------


def _backends() -> list[Any]:
    """Return the backends of TASKS that keep jobs."""
    every = [task_backends[alias] for alias in task_backends.settings]
    return [backend for backend in every if hasattr(backend, "durable_options")]


def _backend(name: str) -> Any:
    """Return the backend of this name, or the first if it is empty. Raises ``ValueError``."""
    for backend in _backends():
        if name in ("", backend.alias):
            return backend
    raise ValueError(f"{name!r} is no backend of durable_tasks in TASKS.")


def _queue(backend: Any, using: str) -> str:
    """Return the queue where it begins soonest: not paused, served by a living worker."""
    store = store_for(connections[using])
    timeout = backend.durable_options.worker_timeout
    alive = Worker.objects.using(using).filter(
        backend_name=backend.alias,
        last_seen__gt=int((store.database_time() - timeout) * 1_000_000),
        wish=None,
    )
    served = [str(text) for text in alive.values_list("queues", flat=True)]
    names = set(backend.queues)
    if not names:  # any will do
        names = {DEFAULT_TASK_QUEUE_NAME}.union(
            *(text.split(", ") for text in served if not text.startswith("all"))
        )
    stopped = {pause.queue_name for pause in paused(backend.alias)}

    def rank(name: str) -> tuple[bool, bool, bool, str]:
        is_served = any(_serves(text, name) for text in served)
        return name in stopped, not is_served, name != DEFAULT_TASK_QUEUE_NAME, name

    return str(min(names, key=rank))


def _serves(text: str, name: str) -> bool:
    """Return whether a worker with these queues, as its row tells them, serves one."""
    if text == "all" or text.startswith("all but "):
        return name not in text.removeprefix("all but ").split(", ")
    return name in text.split(", ")


def _place() -> dict[str, Any]:
    """Return a backend and a queue of it, for the task to be made with."""
    for backend in _backends():
        queues = backend.queues or {DEFAULT_TASK_QUEUE_NAME}
        default = DEFAULT_TASK_QUEUE_NAME in queues
        name = DEFAULT_TASK_QUEUE_NAME if default else min(queues)
        return {"backend": backend.alias, "queue_name": name}
    return {}


# What runs --------------------------------------------------------------------------------------


@task(takes_context=True, max_attempts=5, backoff=fixed(5), timeout=3600, **_place())
def act(
    context: Any, search: dict[str, Any], action: str, argument: Any, before: str, by: str
) -> int:
    """Do ``action`` to the jobs that match and were enqueued by ``before``; return how many.

    What it does to a page of jobs, and how far it is then, commit together: after a lost worker it
    goes on where it was, and does nothing twice.
    """
    asked = {"search": search, "action": action, "argument": argument, "before": before, "by": by}
    run = _Run(context.task_result.id, context.lease, asked)
    if run.may_wait and (ahead := datetime.fromisoformat(before) - clock.now()) >= timedelta(0):
        raise Snooze(ahead + timedelta(seconds=1))  # by this host's clock its copies would match
    until = time.monotonic() + SLICE
    for step in run.steps():
        if getattr(context, "cancelled", False):
            raise Cancel(f"Cancelled after {run.progress['changed']} jobs.")
        run.do(step)
        if step.after is not None and time.monotonic() > until and run.may_wait:
            run.save()
            raise Snooze(0)
    return int(run.progress["changed"])


class _Run:
    """One run of the task."""

    def __init__(self, id: str, lease: int, asked: dict[str, Any]) -> None:
        self._using = router.db_for_write(Job)
        self._store: Store = store_for(connections[self._using])
        job = Job.objects.using(self._using).get(id=id)
        # Of the claim, not of the row: that may be another worker's by now.
        self._id, self._lease = job.id, lease
        self.progress: dict[str, Any] = (job.metadata or {}).get("bulk") or {
            **asked,
            "looked": 0,
            "changed": 0,
            "total": None,
            "after": None,
        }
        self._metadata = job.metadata or {}
        self._search = JobSearch.from_json(asked["search"])
        self._action = ACTIONS[asked["action"]]
        self._argument = asked["argument"]
        self._before = datetime.fromisoformat(asked["before"])
        self._saved_at = time.monotonic()
        self.may_wait = not _backend(job.backend_name).durable_options.immediate

    def steps(self) -> Iterator[Step]:
        after = self.progress["after"]
        if self.progress.get("done"):
            return iter(())
        return self._search.steps(self._using, self._before, SIZE, after)

    def do(self, step: Step) -> None:
        """Act on what a step found, again after a conflict with others."""
        for tried in range(TRIES):
            try:
                self._do(step)
                return
            except OperationalError as error:
                if not self._store.is_busy(error) or tried == TRIES - 1:
                    raise
            time.sleep(random.uniform(0.01, 0.1) * (tried + 1))

    def _do(self, step: Step) -> None:
        progress = {**self.progress, "after": step.after, "done": step.after is None}
        progress["looked"] += step.looked
        ids = [id for id in step.ids if id != self._id]
        now = time.monotonic()
        if ids or progress["done"] or now - self._saved_at >= SAVE_EVERY:
            with transaction.atomic(using=self._using):
                # First: it keeps others from going on with this job, and takes SQLite's write lock.
                self._lock()
                if ids:
                    jobs = Job.objects.using(self._using).filter(self._search.matches(), id__in=ids)
                    if self.progress["action"] in REPEATS:
                        jobs = jobs.exclude(task_path=act.module_path)
                    progress["changed"] += self._action.word(jobs, self._argument)
                self._write(progress)
            self._saved_at = now
        self.progress = progress

    def save(self) -> None:
        with transaction.atomic(using=self._using):
            self._lock()
            self._write(self.progress)

    def _lock(self) -> None:
        if [job.lease for job in self._store.lock([self._id])] != [self._lease]:
            raise DurableTasksError("Another worker goes on with this job.")

    def _write(self, progress: dict[str, Any]) -> None:
        rows = Job.objects.using(self._using).filter(id=self._id)
        rows.update(metadata={**self._metadata, "bulk": progress})
