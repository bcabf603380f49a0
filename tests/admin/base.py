"""What the tests of the admin share."""

import time
import uuid
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import TestCase
from django.urls import reverse
from django.utils import timezone

from durable_tasks.models import Job, Worker
from tests.app import tasks

SCRIPT = "<script>alert('x')</script>"
ESCAPED = "&lt;script&gt;alert("


class AdminTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_superuser("admin", "a@example.com", "secret")

    def setUp(self):
        self.client.force_login(self.user)

    def become(self, *codenames):
        """Log in as a user of the staff who has these permissions."""
        user = get_user_model().objects.create_user(f"u{uuid.uuid4().hex[:8]}", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(
                content_type__app_label="durable_tasks", codename__in=codenames
            )
        )
        self.assertEqual(user.user_permissions.count(), len(codenames))
        self.client.force_login(user)
        return user

    def url(self, page, *args):
        return reverse(f"admin:durable_tasks_{page}", args=args)

    def get(self, page, *args, **query):
        response = self.client.get(self.url(page, *args), query)
        self.assertEqual(response.status_code, 200)
        return response

    def job(self, *args, **changes):
        job = tasks.echo.using(queue_name=changes.pop("queue_name", "default")).enqueue(*args).job
        Job.objects.filter(id=job.id).update(**changes)
        return job

    def failed_job(self, text, **changes):
        now = timezone.now()
        error = {
            "attempt": 1,
            "worker_id": "w-1",
            "started_at": now.isoformat(),
            "finished_at": now.isoformat(),
            "exception_class_path": "builtins.ValueError",
            "traceback": f"Traceback (most recent call last): {text}",
        }
        return self.job(
            **{
                "status": "FAILED",
                "errors": [error],
                "exception_class_path": "builtins.ValueError",
                "attempts": 1,
                "started_at": now,
                "last_attempted_at": now - timedelta(seconds=90),
                "finished_at": now,
                **changes,
            }
        )

    def worker(self, id="w-1", **changes):
        values = {
            "id": id,
            "life": uuid.uuid4(),
            "backend_name": "default",
            "host": "a-host",
            "pid": 4242,
            "process_started": "1",
            "queues": "all",
            "started_at": timezone.now(),
            "last_seen": int(time.time() * 1e6) - 7_000_000,
            "capacity": 51,
        }
        return Worker.objects.create(**values | changes)
