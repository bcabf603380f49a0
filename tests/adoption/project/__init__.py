"""A site that uses django-tasks-db or django-dbtasks, the real ones, in an environment of theirs.

Nothing here needs durable_tasks, but for the tasks that it runs later on.
"""
