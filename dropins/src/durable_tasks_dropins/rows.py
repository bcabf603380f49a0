"""Models over the rows of ``Job`` with the field names and values of another package.

A proxy of ``Job`` could neither have fields of its own nor give ``status`` another meaning. So each
is a model of its own on the same table, which nobody migrates, in a registry that no project sees.
Most of its fields are columns. A field that *shows* something is an expression over Job's columns,
in everything that Django's queries do with it.
"""

from datetime import UTC, datetime
from functools import lru_cache
from json import JSONEncoder
from operator import attrgetter
from typing import Any, NoReturn, Self

from django.apps.registry import Apps
from django.conf import settings
from django.core.exceptions import EmptyResultSet
from django.db import models, router
from django.db.models import Case, Expression, F, Func, Q, Value, When
from django.db.models.expressions import Col
from django.db.models.fields.json import JSONExact
from django.db.models.functions import Coalesce, JSONObject
from django.db.models.lookups import Exact, In
from django.db.models.sql import Query
from django.utils.functional import cached_property

from durable_tasks import clock
from durable_tasks.compat import AnyTask, TaskResultStatus
from durable_tasks.exceptions import DurableTasksError
from durable_tasks.models import MAX_WORKER_ID, Job
from durable_tasks.results import DurableTaskResult, as_enqueued, found_task, shown_as, to_result
from durable_tasks.statuses import JobStatus

# Fields ---------------------------------------------------------------------------------------


def column(name: str, **options: Any) -> Any:
    """Return a field for one of Job's columns, with these options on top of its own."""
    original: Any = Job._meta.get_field(name)
    _, _, _, given = original.deconstruct()
    made = Json if isinstance(original, models.JSONField) else type(original)
    field: Any = made(**given | {"db_column": name} | options)
    # Not of a class: expressions want fields of one kind to have one.
    field.__reduce_ex__ = lambda protocol: _pickled(field)
    return field


def _pickled(field: Any) -> Any:
    """Return how to find a field again: Django's way looks for its model among the project's."""
    return attrgetter(f"{field.name}.field"), (field.model,)


def resolved(expression: Any) -> Any:
    """Return an expression over Job's fields with their columns."""
    return expression.resolve_expression(Query(Job))


def at(alias: str | None, expression: Any) -> Any:
    """Return a resolved expression for a query in which Job's table is called ``alias``."""
    table = Job._meta.db_table
    return expression if alias == table else expression.relabeled_clone({table: alias})


class ShownCol(Col):
    """The column of a field that shows something, with the plain field as its output field.

    So it goes together with other fields of that kind; lookups and transforms are the field's own.
    """

    target: "Shown"

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return compiler.compile(at(self.alias, self.target.resolved))

    def get_lookup(self, lookup: str) -> Any:
        return self.target.get_lookup(lookup)

    def get_transform(self, name: str) -> Any:
        return self.target.get_transform(name)

    def get_db_converters(self, connection: Any) -> Any:
        return self.output_field.get_db_converters(connection)


class Shown(models.Field):  # type: ignore[type-arg]
    """Shows ``shows``, an expression over Job's fields."""

    plain: "models.Field[Any, Any]"

    def __init__(self, *args: Any, shows: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shows = shows

    def __reduce__(self) -> Any:
        return _pickled(self)

    @cached_property
    def resolved(self) -> Any:
        return resolved(self.shows)

    def get_col(self, alias: Any, output_field: Any = None) -> Col:
        return ShownCol(alias, self, self.plain)


class ShownText(Shown, models.TextField):  # type: ignore[type-arg]
    plain = models.TextField()


class ShownTime(Shown, models.DateTimeField):  # type: ignore[type-arg]
    plain = models.DateTimeField()


class ShownBoolean(Shown, models.BooleanField):  # type: ignore[type-arg]
    plain = models.BooleanField()


class _Encoder(JSONEncoder):
    """As the engine writes JSON."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"ensure_ascii": False, "separators": (",", ":")})


class Json(models.JSONField):
    """A ``JSONField`` that finds what the engine has written, also where JSON is a text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"encoder": _Encoder, **kwargs})


class ShownJson(Shown, Json):
    plain = Json()


@Json.register_lookup
class JsonExact(JSONExact):
    """Django's, which compares texts where JSON is one: here without their spaces."""

    def as_sqlite(self, compiler: Any, connection: Any) -> Any:
        return self._as_json("JSON", compiler, connection)

    def as_mysql(self, compiler: Any, connection: Any) -> Any:
        if not connection.mysql_is_mariadb:
            return self.as_sql(compiler, connection)
        return self._as_json("JSON_COMPACT", compiler, connection)

    def _as_json(self, function: str, compiler: Any, connection: Any) -> Any:
        lhs, lhs_params = self.process_lhs(compiler, connection)
        rhs, rhs_params = self.process_rhs(compiler, connection)
        return f"{function}({lhs}) = {function}({rhs})", (*lhs_params, *rhs_params)


class ShownStatus(Shown, models.CharField):  # type: ignore[type-arg]
    """What Django calls the job's status."""

    plain = models.CharField(max_length=10)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"max_length": 10, "choices": TaskResultStatus.choices, "shows": _STATUS}
        super().__init__(*args, default=TaskResultStatus.READY, **kwargs)


_STATUS = Case(
    *(
        When(status=status.value, then=Value(shown_as(status).value))
        for status in JobStatus
        if shown_as(status).value != status.value
    ),
    default=F("status"),
)


@lru_cache(maxsize=64)
def with_status(shown: tuple[str, ...], vendor: str) -> Any:
    """Return the resolved condition that Django calls a job's status one of these.

    On the ``vendor`` SQLite, what is true of all its jobs stands beside a status, said of the first
    column of its index: without that, partial indexes are of no use for several statuses at once.
    """
    stored = [status for status in JobStatus if shown_as(status) in shown]
    if not stored:
        raise EmptyResultSet
    always = {
        JobStatus.READY: [Q(backend_name__gte="")],
        JobStatus.SCHEDULED: [Q(run_at__gte=Value(""))],
        JobStatus.PAUSED: [Q(task_path__gte="")],
        JobStatus.RUNNING: [Q(worker_id__gte=""), Q(worker_id__isnull=True)],
    }
    needed = always if vendor == "sqlite" and len(stored) > 1 else {}
    condition = Q()
    for status in stored:
        for each in needed.get(status, [Q()]):
            condition |= Q(status=status.value) & each
    return resolved(condition)


class _StatusLookup:
    """A lookup by the stored status, so that indexes are of use."""

    lhs: Any
    rhs: Any

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        if not (isinstance(self.lhs, ShownCol) and self.rhs_is_direct_value()):  # type: ignore[attr-defined]
            return super().as_sql(compiler, connection)  # type: ignore[misc]
        shown = [self.rhs] if isinstance(self.rhs, str) else self.rhs
        condition = with_status(tuple(shown), connection.vendor)
        return compiler.compile(at(self.lhs.alias, condition))


@ShownStatus.register_lookup
class _StatusExact(_StatusLookup, Exact):
    pass


@ShownStatus.register_lookup
class _StatusIn(_StatusLookup, In):
    pass


# Expressions ----------------------------------------------------------------------------------


class Sql(Func):
    """What each database calls it; ``{0}`` and so on are the columns."""

    def __init__(self, *columns: str, output_field: Any, **by_vendor: str) -> None:
        super().__init__(*columns, output_field=output_field)
        self.by_vendor = by_vendor

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **extra: Any) -> Any:
        columns = [compiler.compile(each)[0] for each in self.get_source_expressions()]
        return self.by_vendor[connection.vendor].format(*columns), ()


def _json(name: str) -> Sql:
    """A column of JSON as such, where a function would take it for a text."""
    return Sql(
        name,
        output_field=models.JSONField(),
        postgresql="{0}",
        sqlite="JSON({0})",
        mysql="JSON_EXTRACT({0}, '$')",
    )


def _unless_successful(expression: Any) -> Case:
    """About the last error; a job that succeeded in the end may have had some before."""
    text = models.TextField()
    shown = Coalesce(expression, Value(""), output_field=text)
    success = When(status=JobStatus.SUCCESSFUL.value, then=Value(""))
    return Case(success, default=shown, output_field=text)


ARGS_KWARGS = JSONObject(args=_json("args"), kwargs=_json("kwargs"))
EXCEPTION_PATH = _unless_successful("exception_class_path")
TRACEBACK = _unless_successful(
    Sql(
        "errors",
        output_field=models.TextField(),
        postgresql="({0} -> -1 ->> 'traceback')",
        sqlite="JSON_EXTRACT({0}, '$[#-1].traceback')",
        # Converted: a text out of JSON has a collation to which case matters.
        mysql="CONVERT(JSON_UNQUOTE(JSON_EXTRACT({0},"
        " CONCAT('$[', JSON_LENGTH({0}) - 1, '].traceback'))) USING utf8mb4)",
    )
)
# As in results.make_result(): the workers of the errors, then the owner or the finisher.
WORKER_IDS = Sql(
    "errors",
    "worker_id",
    output_field=models.JSONField(),
    postgresql="(COALESCE(JSONB_PATH_QUERY_ARRAY({0}, '$[*].worker_id ? (@ > \"\")'), '[]')"
    " || CASE WHEN {1} <> '' THEN JSONB_BUILD_ARRAY({1}) ELSE '[]' END)",
    sqlite="(SELECT JSON_GROUP_ARRAY(JSON_EXTRACT(value, '$.worker_id')) FROM JSON_EACH("
    "JSON_INSERT(COALESCE({0}, '[]'), '$[#]', JSON_OBJECT('worker_id', {1})))"
    " WHERE JSON_EXTRACT(value, '$.worker_id') <> '')",
    mysql="(SELECT COALESCE(JSON_ARRAYAGG(worker), JSON_ARRAY()) FROM JSON_TABLE("
    "JSON_ARRAY_APPEND(COALESCE({0}, '[]'), '$', JSON_OBJECT('worker_id', {1})), '$[*]'"
    f" COLUMNS (worker VARCHAR({MAX_WORKER_ID}) PATH '$.worker_id')) AS runs WHERE worker <> '')",
)


def never() -> datetime:
    """Return the ``run_after`` that django-tasks-db gives to tasks without one."""
    return datetime(9999, 1, 1, tzinfo=UTC if settings.USE_TZ else None)


class _Never(Expression):
    output_field = models.DateTimeField()

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return Value(never(), output_field=self.output_field).as_sql(compiler, connection)

    def as_mysql(self, compiler: Any, connection: Any) -> Any:
        sql, params = self.as_sql(compiler, connection)
        return f"CAST({sql} AS DATETIME(6))", params  # it would be a text


RUN_AFTER_OR_NEVER = Coalesce("run_after", _Never())


# Models ---------------------------------------------------------------------------------------


class JobRowQuerySet(models.QuerySet[Any]):
    """Rows of jobs: to be read, and deleted."""

    @property
    def db(self) -> str:
        """The database: where the router sends ``Job``."""
        own: Any = self
        choose = router.db_for_write if own._for_write else router.db_for_read
        return own._db or choose(Job, **own._hints)

    def ready(self) -> Self:
        """Tasks that are due and wait for a worker."""
        due = Q(status=JobStatus.SCHEDULED.value, run_at__lte=clock.now())
        return self.filter(_OverJob(Q(status=JobStatus.READY.value, backend_name__gte="") | due))

    def running(self) -> Self:
        """Tasks that a worker runs."""
        return self.filter(status=TaskResultStatus.RUNNING)

    def successful(self) -> Self:
        """Tasks that ended well."""
        return self.filter(status=TaskResultStatus.SUCCESSFUL)

    def failed(self) -> Self:
        """Tasks that ended with an error, or were cancelled."""
        return self.filter(status=TaskResultStatus.FAILED)

    def finished(self) -> Self:
        """Tasks that ended, well or not."""
        return self.filter(status__in=[TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED])

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the jobs, and what the project's models link to them, as ``Job`` does."""
        own: Any = self
        if own._fields is not None:
            raise TypeError("Cannot call delete() after .values() or .values_list()")
        own._for_write = True
        jobs = Job._base_manager.using(self.db)
        return jobs.filter(pk__in=self.order_by().values("pk")).delete()

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def update(self, **kwargs: Any) -> NoReturn:
        """Raise ``DurableTasksError``."""
        _refuse(self.model)

    def bulk_update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise ``DurableTasksError``."""
        _refuse(self.model)

    def bulk_create(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise ``DurableTasksError``."""
        _refuse(self.model)


class _OverJob:
    """A condition on Job's fields for ``filter()``."""

    conditional = True

    def __init__(self, condition: Q) -> None:
        self.condition = condition

    def resolve_expression(self, query: Query, *args: Any, **kwargs: Any) -> Any:
        return at(query.get_initial_alias(), resolved(self.condition))


class JobRow(models.Model):
    """The row of a job by other names."""

    # Fields of all of them.
    priority: int
    task_path: str

    objects = models.Manager.from_queryset(JobRowQuerySet)()

    class Meta:
        abstract = True
        managed = False
        app_label = Job._meta.app_label
        apps = Apps()
        db_table = Job._meta.db_table
        base_manager_name = "objects"

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        # Django's way back looks for the model among the project's.
        return _new, (type(self),), *reduced[2:]

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise ``DurableTasksError``."""
        _refuse(type(self))

    def delete(self, using: Any = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Delete the job as a queryset does."""
        rows = type(self)._base_manager.using(using or self._state.db)
        deleted = rows.filter(pk=self.pk).delete()
        self.pk = None
        return deleted

    delete.alters_data = True  # type: ignore[attr-defined]

    def _task(self, **as_asked: Any) -> AnyTask:
        path = self.task_path
        return as_enqueued(found_task(path), path, priority=self.priority, **as_asked)

    def _result(self) -> DurableTaskResult:
        return to_result(Job.objects.using(self._state.db).get(pk=self.pk))


def _new(model: type[JobRow]) -> JobRow:
    return model.__new__(model)


def _refuse(model: type[models.Model]) -> NoReturn:
    raise DurableTasksError(
        f"{model.__name__} shows the jobs of durable_tasks: they can be read and deleted by it, not"
        " written. To enqueue a task, call its enqueue(); to run a job again or to cancel it, use "
        "retry() or cancel() of its result, or of a queryset of durable_tasks.models.Job."
    )
