"""The form with which people make a periodic task in the database."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput
from django.utils.functional import lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from .. import clock
from ..compat import TASK_MAX_PRIORITY, TASK_MIN_PRIORITY
from ..models import PeriodicTask
from ..redaction import redacted, restored
from ..results import find_task
from ..schedules import parse_schedule
from ..state import durable_backends
from ..timetable import Entry, entry_of_row, next_time
from .base import jobs_database, secrets_of

CATCH_UP = (
    ("latest", gettext_lazy("one run for all that were missed")),
    ("all", gettext_lazy("one run for each that was missed")),
    ("none", gettext_lazy("no run")),
)
OVERLAP = (
    ("allow", gettext_lazy("run beside it")),
    ("skip", gettext_lazy("leave this run out")),
)


def schedulable() -> dict[str, tuple[str, ...]]:
    """Return by backend the paths of the tasks that may be chosen, where there are any."""
    found = {alias: each.durable_options.schedulable for alias, each in durable_backends().items()}
    return {alias: paths for alias, paths in found.items() if paths}


def task_choices() -> list[Any]:
    """Return the tasks to choose from, by backend if there are several."""
    by_backend = schedulable()
    groups = [(alias, [(path, path) for path in paths]) for alias, paths in by_backend.items()]
    if len(groups) == 1:
        groups = groups[0][1]  # type: ignore[assignment]
    return [("", "---------"), *groups]


def queue_choices() -> list[Any]:
    """Return the queues to choose from, or only that of the task if any name is allowed."""
    backends = durable_backends()
    names = {name for alias in schedulable() for name in backends[alias].queues}
    return [("", _("that of the task")), *((name, name) for name in sorted(names))]


class JSONField(forms.JSONField):
    """Shows again what was typed, as it was: what it stands for may be no text at all."""

    def bound_data(self, data: Any, initial: Any) -> Any:
        return initial if self.disabled else InvalidJSONInput(data or "")

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value)
        except (ValueError, RecursionError) as error:  # a number or a depth beyond Python's limits
            raise ValidationError(self.error_messages["invalid"], "invalid") from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(super().has_changed(initial, data))
        except (ValueError, RecursionError):
            return True


class PeriodicTaskForm(forms.ModelForm):  # type: ignore[type-arg]
    backend_name = forms.ChoiceField(
        label=gettext_lazy("Backend"),
        choices=lambda: [(alias, alias) for alias in schedulable()],
    )
    task_path = forms.ChoiceField(
        label=gettext_lazy("Task"),
        choices=task_choices,
        help_text=gettext_lazy("The setting OPTIONS[“schedulable”] says which there are."),
    )
    spec = forms.CharField(
        label=gettext_lazy("Schedule"),
        max_length=255,
        help_text=gettext_lazy(
            "A crontab such as 30 3 * * 1-5 (minute, hour, day, month, weekday), or a length of "
            "time such as 90s or 1h30m."
        ),
    )
    time_zone = forms.CharField(
        label=gettext_lazy("Time zone"),
        required=False,
        max_length=100,
        help_text=gettext_lazy("Of a crontab, such as Europe/Berlin. Empty: that of the project."),
    )
    args = JSONField(
        label=gettext_lazy("Arguments"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField dt-code"}),
        help_text=gettext_lazy('A JSON list, such as [1, "two"].'),
    )
    kwargs = JSONField(
        label=gettext_lazy("Keyword arguments"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField dt-code"}),
        help_text=gettext_lazy('A JSON object, such as {"name": "value"}.'),
    )
    queue_name = forms.CharField(
        label=gettext_lazy("Queue"),
        required=False,
        max_length=100,
        help_text=gettext_lazy("Empty: that of the task."),
    )
    priority = forms.IntegerField(
        label=gettext_lazy("Priority"),
        required=False,
        min_value=TASK_MIN_PRIORITY,
        max_value=TASK_MAX_PRIORITY,
        help_text=gettext_lazy("Empty: that of the task."),
    )
    catch_up = forms.ChoiceField(
        label=gettext_lazy("After times at which no worker ran"), choices=CATCH_UP
    )
    overlap = forms.ChoiceField(
        label=gettext_lazy("If the run before has not ended"), choices=OVERLAP
    )

    class Meta:
        model = PeriodicTask
        fields = (
            *("backend_name", "name", "enabled", "task_path", "spec", "time_zone", "args"),
            *("kwargs", "queue_name", "priority", "catch_up", "overlap"),
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = lazy(queue_choices, list)
        backends = durable_backends()
        if all(backends[alias].queues for alias in schedulable()):
            self.fields["queue_name"] = forms.ChoiceField(
                label=gettext_lazy("Queue"), required=False, choices=choices
            )
        self.fields["name"].widget.attrs["class"] = "vTextField"
        for name in ("spec", "time_zone"):
            self.fields[name].widget.attrs["class"] = "vTextField"
        if len(schedulable()) == 1:
            self.fields["backend_name"].widget = forms.HiddenInput()
            self.initial.setdefault("backend_name", next(iter(schedulable())))
        for name, nothing in (("args", []), ("kwargs", {})):
            given = self.initial.get(name)
            secrets = secrets_of(self.instance.backend_name)
            self.initial[name] = nothing if given is None else redacted(given, secrets)
        if self.instance.pk is not None:
            self.fields["backend_name"].disabled = True

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        alias, path = data.get("backend_name"), data.get("task_path")
        if alias is None or path is None:
            return data
        backend = durable_backends()[alias]
        # Never imported unless the settings name it.
        if path not in backend.durable_options.schedulable:
            self.add_error("task_path", _("The backend %s does not offer this task.") % alias)
            return data
        self._check_name(alias, data.get("name"))
        self._check_schedule(alias, data)
        self._check_arguments(data)
        try:
            task = find_task(path)
        except Exception as error:
            self.add_error("task_path", str(error))
            return data
        data["queue_name"] = data.get("queue_name") or task.queue_name
        if data.get("priority") is None:
            data["priority"] = task.priority
        if backend.queues and data["queue_name"] not in backend.queues:
            text = _("The backend %(backend)s has no queue %(queue)s.")
            self.add_error("queue_name", text % {"backend": alias, "queue": data["queue_name"]})
        if not self.errors:
            self._make(data)
        return data

    def _check_arguments(self, data: dict[str, Any]) -> None:
        data["args"], data["kwargs"] = data.get("args") or [], data.get("kwargs") or {}
        for name, kind, what in (
            ("args", list, _("This must be a JSON list.")),
            ("kwargs", dict, _("This must be a JSON object.")),
        ):
            if name not in self.errors and not isinstance(data[name], kind):
                self.add_error(name, what)
            # What was not shown, and so can't have been changed, stays.
            if name not in self.errors:
                data[name] = restored(data[name], getattr(self.instance, name))

    def _check_name(self, alias: str, name: str | None) -> None:
        if not name:
            return
        periodic = durable_backends()[alias].durable_options.periodic
        if name.casefold() in {each.casefold() for each in periodic}:
            text = _("OPTIONS[“periodic”] of the settings has this name, and wins.")
            self.add_error("name", text)
            return
        others = PeriodicTask.objects.using(jobs_database()).filter(backend_name=alias)
        others = others.exclude(pk=self.instance.pk)
        # Compared here: not every database tells capitals apart.
        if name.casefold() in {each.casefold() for each in others.values_list("name", flat=True)}:
            self.add_error("name", _("There is a periodic task of this name already."))

    def _check_schedule(self, alias: str, data: dict[str, Any]) -> None:
        if "spec" not in data or "time_zone" not in data:
            return
        try:
            parse_schedule("0 0 * * *", timezone=data["time_zone"] or None)
        except ValueError as error:
            self.add_error("time_zone", str(error))
            return
        try:
            parse_schedule(data["spec"], timezone=data["time_zone"] or None, seed=alias)
        except (TypeError, ValueError) as error:
            self.add_error("spec", str(error))

    def _make(self, data: dict[str, Any]) -> None:
        """Try what a worker will do with it; keep what that makes of it."""
        columns = {name: data[name] for name in self.Meta.fields if name != "enabled"}
        try:
            self.entry: Entry = entry_of_row(PeriodicTask(**columns))
        except TypeError as error:
            self.add_error("args", str(error))
        except Exception as error:
            self.add_error(None, str(error))

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        row, now = self.instance, clock.now()
        before = PeriodicTask.objects.using(jobs_database()).filter(pk=row.pk).first()
        for name, value in self.entry.columns.items():
            setattr(row, name, value)
        row.source = PeriodicTask.DATABASE
        is_same = before is not None and (before.spec, before.time_zone) == (
            row.spec,
            row.time_zone,
        )
        is_due = before is not None and before.next_run_at is not None
        is_due = is_due and before.next_run_at <= now  # type: ignore[operator,union-attr]
        self.moves = not (is_same or is_due)  # a run that is due is not lost
        if self.moves:
            row.next_run_at = next_time(self.entry.when, now)
            if row.next_run_at is None:
                self.add_error("spec", ValidationError(_("It has no further time.")))
