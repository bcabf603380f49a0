class JobsElsewhere:
    """Sends our tables to the second database and leaves the others where they are."""

    def db_for_read(self, model, **hints):
        return "other" if model._meta.app_label == "durable_tasks" else None

    db_for_write = db_for_read
