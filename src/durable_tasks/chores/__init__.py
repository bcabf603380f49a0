"""The periodic duties that any worker does: each is a ``tick(...)`` that returns a report."""
