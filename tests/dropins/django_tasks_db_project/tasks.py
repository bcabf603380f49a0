try:
    from django.tasks import task
except ImportError:  # Django 5.2
    from django_tasks import task


@task
def greet(name, *, word="Hello"):
    return f"{word}, {name}!"


@task(takes_context=True, priority=10)
def attempt(context):
    return [context.attempt, context.task_result.id]


@task
def fail():
    raise LookupError("nothing there")
