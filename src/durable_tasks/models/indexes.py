"""Indexes over a part of a table, where the database has them."""

from collections.abc import Sequence
from typing import Any

from django.db import models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement
from django.db.models import Q


class PartialIndex(models.Index):
    """An index over the rows that match ``where``.

    MySQL and MariaDB have no partial indexes: there the columns of ``fallback`` are indexed
    instead, or nothing if it is empty.
    """

    def __init__(self, *, where: Q, fallback: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where = where
        self.fallback = list(fallback)

    def deconstruct(self) -> Any:
        path, args, kwargs = super().deconstruct()
        path = path.replace("durable_tasks.models.indexes", "durable_tasks.models")
        return path, args, {**kwargs, "where": self.where, "fallback": self.fallback}

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        using: str = "",
        **kwargs: Any,
    ) -> Statement:
        if schema_editor.connection.features.supports_partial_indexes:
            fields = [f"-{name}" if order else name for name, order in self.fields_orders]
            index = models.Index(fields=fields, name=self.name, condition=self.where)
        elif self.fallback:
            index = models.Index(fields=self.fallback, name=self.name)
        else:
            return Statement("DO 0")  # the statement that does nothing
        return index.create_sql(model, schema_editor, using, **kwargs)

    def remove_sql(
        self, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor, **kwargs: Any
    ) -> str:
        if self.fallback or schema_editor.connection.features.supports_partial_indexes:
            return super().remove_sql(model, schema_editor, **kwargs)
        return "DO 0"
