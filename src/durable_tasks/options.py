"""``TASKS[alias]["OPTIONS"]`` as one frozen object, or one clear error."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .compat import EXPRESSION_IDS
from .ids import uuid7
from .periodic import Periodic
from .redaction import SECRETS
from .retention import UNSET, retain_by_path
from .retry import Backoff, exponential, seconds_of

DEFAULT_BACKOFF = exponential()

# Characters: what the column for it takes.
MAX_SCHEDULE_NAME = 255


@dataclass(frozen=True)
class Options:
    """The options of one backend.

    ``id_function``: callable or dotted path; returns a ``uuid.UUID``, a string of one, or (Django
    6.0 and later) a database expression.
    ``worker_timeout``: seconds after which a worker that was not seen counts as lost.
    ``max_lost``: a job whose workers were lost so often while it ran fails.
    ``max_attempts``, ``backoff``, ``timeout``: of tasks that say nothing else.
    ``retain``, ``retain_failed``: how long jobs stay once they have ended, and those that FAILED or
    were CANCELLED: a time, None for ever, or a mapping of task paths to these.
    ``max_result_size``: bytes of JSON that a return value may take.
    ``prefetch``: jobs that a worker claims beyond its free slots, or ``"auto"``: as many as it will
    need within about 0.15 seconds.
    ``notify``: whether enqueuing notifies workers, and they those who wait for a result, where the
    database can.
    ``listen_database``: the alias of a direct connection to the jobs' database, for listening.
    ``periodic``: the periodic tasks by name, see ``Periodic``.
    ``immediate``: whether tasks run where they are enqueued, without a worker.
    ``signals``: whether Django's task signals are sent.
    ``statistics``: whether workers count what ends, and errors, for the admin's charts.
    ``redact``: patterns, as of ``fnmatch``, of the names whose values pages do not show.
    ``schedulable``: paths of the tasks that periodic tasks made in the admin may run.
    """

    id_function: Callable[[], Any] | str = uuid7
    worker_timeout: float = 30.0
    max_lost: int = 3
    max_attempts: int = 1
    backoff: Backoff | str = DEFAULT_BACKOFF
    timeout: float | timedelta | None = None
    retain: Any = None
    retain_failed: Any = UNSET
    max_result_size: int = 4 * 1024 * 1024
    prefetch: int | Literal["auto"] = "auto"
    notify: bool = True
    listen_database: str | None = None
    periodic: Mapping[str, Periodic] = field(default_factory=dict)
    immediate: bool = False
    signals: bool = True
    statistics: bool = True
    redact: tuple[str, ...] = SECRETS
    schedulable: tuple[str, ...] = ()

    where: str = field(default="", repr=False)  # the setting's full name, for errors

    @cached_property
    def make_id(self) -> Callable[[], Any]:
        """The id function itself; a dotted path is imported at its first use.

        Raises ``ImproperlyConfigured`` if the path leads nowhere or to something of no use.
        """
        name = f'{self.where}["id_function"]'
        function = self.id_function
        if function == "uuid.uuid7":
            return uuid7  # Python's own from 3.14 on, its equivalent before
        function = _imported(name, function)
        if hasattr(function, "resolve_expression") and not EXPRESSION_IDS:
            raise ImproperlyConfigured(
                f"{name} is a database expression; these need Django 6.0 or later. "
                "Use a function that returns a uuid.UUID."
            )
        return function

    @cached_property
    def make_delay(self) -> Backoff:
        """``backoff`` itself; a dotted path is imported at its first use.

        Raises ``ImproperlyConfigured`` if the path leads nowhere or to something of no use.
        """
        return _imported(f'{self.where}["backoff"]', self.backoff)


def _imported(name: str, value: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return the callable that an option is or names; ``name``: of the option, for the errors."""
    function = value
    if isinstance(value, str):
        try:
            function = import_string(value)
        except ImportError as error:
            raise ImproperlyConfigured(f"{name} can't be imported: {error}") from error
    if not callable(function):
        raise ImproperlyConfigured(f"{name} must name a callable, not {function!r}.")
    return function


def parse_options(alias: str, given: Any) -> Options:
    """Return the options of the backend ``alias``.

    Raises ``ImproperlyConfigured`` with the full name of the key that is unknown or wrong.
    """
    where = f'TASKS["{alias}"]["OPTIONS"]'
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{where} must be a dictionary, not {given!r}.")
    known = list(_RULES)
    made = {}
    for key, value in given.items():
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(known)}."
            raise ImproperlyConfigured(f'{where}["{key}"] is not an option. {hint}')
        if value is not None or _RULES[key] not in (_flag, _texts):  # None leaves it at its default
            made[key] = _RULES[key](f'{where}["{key}"]', value)
    return Options(**made, where=where)


# Each returns the value of the option, or raises ImproperlyConfigured.


def _callable(name: str, value: Any) -> Any:
    if not callable(value) and not (isinstance(value, str) and value):
        raise ImproperlyConfigured(
            f"{name} must be a callable or the dotted path of one, not {value!r}."
        )
    return value


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 1:
        raise ImproperlyConfigured(
            f"{name} must be a number of seconds, at least 1, not {value!r}."
        )
    return seconds


def _time_limit(name: str, value: Any) -> Any:
    try:
        above = value is None or seconds_of(value, name) > 0
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(str(error)) from error
    if not above:
        raise ImproperlyConfigured(f"{name} must be above 0 seconds, or None, not {value!r}.")
    return value


def _retain(name: str, value: Any) -> Any:
    try:
        retain_by_path(value, name)
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from error
    return value


def _above_zero(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ImproperlyConfigured(f"{name} must be a whole number above 0, not {value!r}.")
    return value


def _prefetch(name: str, value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ImproperlyConfigured(f'{name} must be "auto" or a whole number, not {value!r}.')
    return value


def _flag(name: str, value: Any) -> bool:
    if value not in (True, False):  # 1 and 0 are equal to these
        raise ImproperlyConfigured(f"{name} must be True or False, not {value!r}.")
    return bool(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ImproperlyConfigured(f"{name} must be a list of texts, not {value!r}.")
    texts = tuple(value)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ImproperlyConfigured(f"{name} must be a list of texts; {text!r} is none.")
    return texts


def _database(name: str, value: Any) -> Any:
    if value is not None and value not in settings.DATABASES:
        raise ImproperlyConfigured(f"{name} must be an alias of DATABASES, not {value!r}.")
    return value


def _periodic(name: str, value: Any) -> dict[str, Periodic]:
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(
            f"{name} must be a dictionary of names or task paths and when to run, not {value!r}."
        )
    seen: dict[str, str] = {}
    made = {}
    for key, spec in value.items():
        if not isinstance(key, str) or not 0 < len(key) <= MAX_SCHEDULE_NAME:
            raise ImproperlyConfigured(
                f"{name} has a key that is no text of 1 to {MAX_SCHEDULE_NAME} characters: {key!r}."
            )
        if (other := seen.setdefault(key.casefold(), key)) != key:
            # To MySQL, and to those who read a list of them, they are one.
            raise ImproperlyConfigured(
                f"{name} has keys that are equal but for their case: {other!r} and {key!r}."
            )
        try:
            made[key] = Periodic.of(spec)
            made[key].schedule(key)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f'{name}["{key}"]: {error}') from error
    return made


_RULES: dict[str, Callable[[str, Any], Any]] = {
    "id_function": _callable,
    "worker_timeout": _seconds,
    "max_lost": _above_zero,
    "max_attempts": _above_zero,
    "backoff": _callable,
    "timeout": _time_limit,
    "retain": _retain,
    "retain_failed": _retain,
    "max_result_size": _above_zero,
    "prefetch": _prefetch,
    "notify": _flag,
    "listen_database": _database,
    "periodic": _periodic,
    "immediate": _flag,
    "signals": _flag,
    "statistics": _flag,
    "redact": _texts,
    "schedulable": _texts,
}
