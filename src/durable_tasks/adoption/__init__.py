"""The rows of django-tasks-db and django-dbtasks become our jobs."""
