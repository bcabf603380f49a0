"""What the drop-ins ``django_tasks_db`` and ``dbtasks`` share; nothing here is for projects."""
