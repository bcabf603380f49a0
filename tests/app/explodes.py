"""Can't be imported, as a task's module after a bad deploy."""

raise RuntimeError("boom at import")
