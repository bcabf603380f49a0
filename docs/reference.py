"""Writes the pages of the reference that are made from the code: ``python docs/reference.py``."""

import inspect
import os
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "reference"
sys.path.insert(0, str(FOLDER.parents[1]))

WRITTEN = "<!-- Written by docs/reference.py from the models: run it instead of editing this. -->"

TABLES = f"""# Tables

{WRITTEN}

The tables are models of `durable_tasks.models`, which you can query. Read them, and let the worker
and the admin write them. A type is Django's field; `migrate` makes of it what your database has
for it.
"""

PERMISSIONS = f"""# Permissions

{WRITTEN}

A user of the admin who is no superuser needs these, from the app `durable_tasks`. To do something,
one needs the permission to view as well: `retry_job` is worth nothing without `view_job`.
[Who may do what](../how-to/secure-admin.md) has groups to begin with.
"""


def pages():
    """Return the text of each page by its file's name."""
    from django.apps import apps

    models = list(apps.get_app_config("durable_tasks").get_models())
    return {
        "tables.md": "\n".join([TABLES, *map(table, models)]),
        "permissions.md": "\n".join([PERMISSIONS, *permissions(models)]),
    }


def table(model):
    meta, remarks = model._meta, remarks_of(model)
    lines = [
        f"## `{model.__name__}`",
        "",
        first_paragraph(model),
        "",
        f"Table `{meta.db_table}`.",
        "",
    ]
    lines += ["| column | type | null | what it is |", "|---|---|---|---|"]
    for field in meta.concrete_fields:
        null = "yes" if field.null else ""
        lines.append(f"| `{field.column}` | {kind(field)} | {null} | {what(field, remarks)} |")
    lines += ["", *indexes(meta)]
    return "\n".join(lines)


def kind(field):
    name = field.get_internal_type().removesuffix("Field")
    extra = f" {field.max_length}" if field.max_length and name == "Char" else ""
    return f"{name}{extra}{', primary key' if field.primary_key else ''}"


def what(field, remarks):
    said = remarks.get(field.name)
    label = str(field.verbose_name)
    label = label[:1].upper() + label[1:]
    return escape(f"{label}. {said}" if said else label)


def remarks_of(model):
    """Return what the source says in a comment above a field, by the field's name."""
    found, comment = {}, []
    for line in inspect.getsource(model).splitlines():
        if line.startswith("    # "):
            comment.append(line.strip("# "))
        elif field := re.match(r"    (\w+) = models\.", line):
            if comment:
                found[field[1]] = " ".join(comment).replace("``", "`")
            comment = []
        elif line.strip():
            comment = []
    return found


def indexes(meta):
    lines = []
    for index in meta.indexes:
        line = f"- Index `{index.name}`: {columns(index.fields)}, where {condition(index.where)}."
        if not index.fallback:
            line += " MySQL and MariaDB: none."
        elif index.fallback != index.fields:
            line += f" MySQL and MariaDB: {columns(index.fallback)}."
        lines.append(line)
    for constraint in meta.constraints:
        if fields := getattr(constraint, "fields", ()):
            lines.append(f"- Unique `{constraint.name}`: {columns(fields)}.")
        else:
            lines.append(f"- Check `{constraint.name}`: {condition(constraint.condition)}.")
    return [*lines, ""] if lines else []


def columns(names):
    return ", ".join(
        f"`{name.lstrip('-')}`" + " descending" * name.startswith("-") for name in names
    )


def condition(where):
    """Return a ``Q`` of one or several comparisons in words."""
    words = {"in": "is one of", "isnull": "is null", "gte": "is at least", "lte": "is at most"}
    parts = []
    for name, value in where.children:
        field, _, how = name.partition("__")
        if how == "isnull":
            parts.append(f"`{field}` is {'' if value else 'not '}null")
            continue
        values = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        parts.append(f"`{field}` {words.get(how, 'is')} {values}")
    return " and ".join(parts)


# Django makes these, too. What they are about is written by code and by workers alone.
IDLE = ("add_job", "add_worker", "delete_worker")
SEE = ("change_job", "change_worker")


def allows(word, meta):
    codename = f"{word}_{meta.model_name}"
    if codename in IDLE:
        return "Nothing: the admin has no such page"
    if codename in SEE:
        return (
            f"Can view {meta.verbose_name}, as in all of Django's admin; there is nothing to edit"
        )
    return f"Can {word} {meta.verbose_name}"


def permissions(models):
    lines = ["| permission | of | it allows |", "|---|---|---|"]
    for model in models:
        meta = model._meta
        given = [
            (f"{word}_{meta.model_name}", allows(word, meta)) for word in meta.default_permissions
        ]
        lines += [
            f"| `{meta.app_label}.{codename}` | {meta.verbose_name_plural} | {name} |"
            for codename, name in (*given, *meta.permissions)
        ]
    return [*lines, ""]


def first_paragraph(model):
    return escape(" ".join(inspect.getdoc(model).split("\n\n")[0].split()).replace("``", "`"))


def escape(text):
    return text.replace("|", "\\|").replace("<", "&lt;")


def set_up():
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()


if __name__ == "__main__":
    set_up()
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
