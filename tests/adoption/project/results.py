"""What a result says, whoever's it is."""

from datetime import UTC


def seen(result):
    """Return it as JSON can carry it."""
    status = str(result.status.value)
    return {
        "status": status,
        "args": result.args,
        "kwargs": result.kwargs,
        "path": result.task.module_path,
        "priority": result.task.priority,
        "queue": result.task.queue_name,
        "run_after": in_utc(result.task.run_after),
        "value": result.return_value if status == "SUCCESSFUL" else None,
        "errors": [[each.exception_class_path, each.traceback] for each in result.errors],
        "workers": list(result.worker_ids),
        "enqueued_at": in_utc(result.enqueued_at),
        "started_at": in_utc(result.started_at),
        "finished_at": in_utc(result.finished_at),
    }


def in_utc(at):
    return at and at.astimezone(UTC).isoformat()
