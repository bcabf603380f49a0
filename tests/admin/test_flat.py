"""No page reads more when the table is larger, as the database itself counts what is read."""

import os
from contextlib import suppress
from importlib.util import find_spec

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.test import RequestFactory, TransactionTestCase

from durable_tasks import metrics
from durable_tasks.models import Job

from .. import million

LONG = bool(os.environ.get("DURABLE_TASKS_LONG"))
# More of each than any page counts or looks at; then as many again, or a million.
SMALL = dict.fromkeys(million.MILLION, 11_000) | {"READY": 22_000, "RUNNING": 300}
LARGE = million.MILLION if LONG else SMALL | {"RUNNING": 0}
# Two, so that SMALL has more READY jobs in each than are counted.
QUEUES = million.QUEUES[:2]

# What a page may read more than before: the depth of an index grows by a level.
MORE, SOME = 1.1, 2_000
# Rows that a page may read at all: a few windows. Of SQLite: steps, some dozens for a row.
MOST = {"postgresql": 100_000, "mysql": 250_000, "sqlite": 3_000_000}


@pytest.mark.any_version
class FlatTests(TransactionTestCase):
    def setUp(self):
        user = get_user_model().objects.create_superuser("admin", "a@example.com", "secret")
        self.client.force_login(user)

    def works(self):
        """What is measured: a name, and what to do."""
        pages = {**million.pages(), **self.job_pages, **million.deep_pages(self.client)}
        works = {name: (lambda path=path: self.get(path)) for name, path in pages.items()}
        for command in million.COMMANDS:
            works[command[0]] = lambda command=command: self.call(*command)
        if find_spec("prometheus_client"):
            scrape = metrics.view(token="secret")
            request = RequestFactory().get("/", headers={"authorization": "Bearer secret"})
            works["metrics"] = lambda: self.assertEqual(scrape(request).status_code, 200)
        return works

    def get(self, path):
        response = self.client.get(path)
        self.assertEqual(response.status_code, 200, response)
        response.getvalue()

    def call(self, *command):
        # That something is unhealthy is no fault here.
        with open(os.devnull, "w") as nowhere, suppress(SystemExit):
            call_command(*command, stdout=nowhere, stderr=nowhere)

    def measure(self):
        reads = {}
        works = self.works()
        next(iter(works.values()))()  # what is kept in memory is there
        for name, work in works.items():
            with million.reading() as read:
                work()
            reads[name] = read.rows
            self.assertEqual(read.faults, [], name)
        return reads

    def test_no_page_reads_more_of_a_larger_table(self):
        million.fill(SMALL, queues=QUEUES)
        self.job_pages = million.job_pages()
        before = self.measure()
        million.fill(LARGE, queues=QUEUES)
        self.assertEqual(Job.objects.count(), sum(SMALL.values()) + sum(LARGE.values()))
        after = self.measure()
        more = {
            name: f"{before[name]:,} -> {count:,}"
            for name, count in after.items()
            if count > before[name] * MORE + SOME or count > MOST[connection.vendor]
        }
        self.assertEqual(more, {})
