"""Tasks for the tests of the store and of the chores; most are never run."""

from durable_tasks import task


@task
def again() -> None:
    pass


@task(on_worker_lost="fail")
def only_once() -> None:
    pass
