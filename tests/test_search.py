"""Which jobs a search finds, in which order, and what it reads for that."""

from datetime import timedelta
from unittest import mock
from uuid import UUID, uuid4

from django.db import DEFAULT_DB_ALIAS as USING
from django.db import connection
from django.http import QueryDict
from django.test import SimpleTestCase, TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from durable_tasks import search
from durable_tasks.ids import uuid7
from durable_tasks.models import Job
from durable_tasks.search import JobSearch, SearchError
from durable_tasks.search_text import parse_text
from durable_tasks.window import time_of
from tests.store.jobs import make_jobs, make_running

NOW = timezone.now


def asked(query: str) -> JobSearch:
    return JobSearch.from_query(QueryDict(query))


class TextTests(SimpleTestCase):
    def test_what_the_box_understands(self) -> None:
        for text, expected in (
            ("", {}),
            ("reports.send", {"text": "reports.send"}),
            ("0199f3aa", {"id": "0199f3aa"}),
            ("0199F3AA-1", {"id": "0199f3aa1"}),
            ("cafe", {"text": "cafe"}),
            ("args.0=5", {"arguments": (("args.0", 5),)}),
            ("kwargs.user_id=42 mails", {"arguments": (("kwargs.user_id", 42),), "text": "mails"}),
            ('kwargs.user.name="Ada B"', {"arguments": (("kwargs.user.name", "Ada B"),)}),
            (
                "kwargs.a=Ada kwargs.b=null",
                {"arguments": (("kwargs.a", "Ada"), ("kwargs.b", None))},
            ),
            ('kwargs.a=["x y", 1]', {"arguments": (("kwargs.a", ["x y", 1]),)}),
            ("kwargs.a=NaN", {"arguments": (("kwargs.a", "NaN"),)}),
        ):
            with self.subTest(text):
                self.assertEqual(parse_text(text), expected)

    def test_an_error_says_what_can_be_written(self) -> None:
        for text, part in (
            ("user_id=42", "kwargs.user_id=42"),
            ("args=5", "args.0=5"),
            ("one two", "two"),
            ("kwargs.a=", "kwargs.a="),
            ('kwargs.a="x', '"x'),
            ("kwargs.a=" + "[" * 100_000, "no value"),
        ):
            with self.subTest(text[:20]), self.assertRaises(SearchError) as caught:
                parse_text(text)
            self.assertIn(part, str(caught.exception))

    def test_a_search_comes_back_from_links_and_from_json(self) -> None:
        full = JobSearch(
            status="FAILED",
            backend_name="default",
            queue_name="a & b",
            task_path="shop.tasks.pay",
            exception_class_path="builtins.ValueError",
            error_place="",
            schedule="nightly",
            worker_id="w-1",
            since=NOW() - timedelta(days=1),
            until=NOW(),
            id="0199f3aa",
            text="pay",
            arguments=(("args.0", 5), ("kwargs.user.name", 'A "d" a'), ("kwargs.x", None)),
        )
        for each in (full, JobSearch(), JobSearch(id="01"), JobSearch(text="x")):
            self.assertEqual(asked(each.as_query()), each)
            self.assertEqual(JobSearch.from_json(each.to_json()), each)

    def test_what_is_no_search_is_refused_by_name(self) -> None:
        for query, part in (
            ("status=NEW", "NEW"),
            ("since=yesterday", "yesterday"),
            ("until=2026-99-99T00:00", "2026-99-99"),
            ("id=xyz", "xyz"),
            ("task_path=a%00b", "task_path"),
        ):
            with self.subTest(query), self.assertRaises(SearchError) as caught:
                asked(query)
            self.assertIn(part, str(caught.exception))
        for value in ({"colour": "red"}, {"status": "NEW"}, {"arguments": 5}, {"since": "x"}):
            with self.subTest(value), self.assertRaises(SearchError):
                JobSearch.from_json(value)
        self.assertEqual(asked("colour=red&status=failed").status, "FAILED")

    def test_a_time_may_be_so_long_ago(self) -> None:
        since = asked("since=90m").since
        assert since is not None
        self.assertLess(abs(NOW() - timedelta(minutes=90) - since), timedelta(seconds=60))


class FindTests(TestCase):
    def found(self, query: str, **kwargs: int) -> list[UUID]:
        return [job.id for job in asked(query).page(USING, **kwargs).jobs]

    def test_each_condition_finds_its_jobs(self) -> None:
        old = NOW() - timedelta(days=3)
        [plain] = make_jobs(enqueued_at=old, id=_at(-3 * 86400))
        [mail] = make_jobs(queue_name="mails", task_path="shop.tasks.send_mail", schedule="nightly")
        [failed] = make_jobs(
            status="FAILED",
            finished_at=NOW(),
            exception_class_path="builtins.ValueError",
            error_place="shop/tasks.py in pay",
        )
        [lost] = make_jobs(
            status="FAILED",
            finished_at=NOW() - timedelta(seconds=9),
            exception_class_path="builtins.ValueError",
            error_place="",
        )
        [running] = make_running(worker_id="w-1")
        [other] = make_jobs(backend_name="other", queue_name="mails")
        for query, expected in (
            ("", [other, running, lost, failed, mail, plain]),
            ("status=READY", [plain, mail, other]),
            ("status=READY&queue_name=mails", [mail, other]),
            ("status=READY&queue_name=mails&backend_name=other", [other]),
            ("queue_name=mails", [other, mail]),
            ("backend_name=other", [other]),
            ("q=send_m", [mail]),
            ("task_path=shop.tasks.send_mail", [mail]),
            ("task_path=send_mail", []),
            ("schedule=nightly", [mail]),
            ("status=FAILED", [failed, lost]),
            ("exception_class_path=builtins.ValueError", [lost, failed]),
            ("exception_class_path=builtins.ValueError&error_place=", [lost]),
            ("status=FAILED&error_place=shop/tasks.py+in+pay", [failed]),
            ("status=RUNNING", [running]),
            ("status=RUNNING&worker_id=w-1", [running]),
            ("status=RUNNING&worker_id=w-2", []),
            ("worker_id=w-1", [running]),
            (f"q={mail.id}", [mail]),
            (f"q={mail.id.hex}&status=FAILED", []),
            (f"until={(NOW() - timedelta(days=2)).isoformat()}".replace("+", "%2B"), [plain]),
        ):
            with self.subTest(query):
                self.assertEqual(self.found(query), [job.id for job in expected])
        for job in Job.objects.all():
            self.assertIn(job.id, self.found(f"q={str(job.id)[:14]}"))

    def test_arguments_are_found_by_their_json_values(self) -> None:
        [five] = make_jobs(args=[5], kwargs={"user": {"name": "Ada", "id": 42}, "x": None})
        [text] = make_jobs(args=["5", {"a": [1, 2]}], kwargs={"contains": "ünï", "a__b": True})
        for query, expected in (
            ("args.0=5", [five]),
            ('args.0="5"', [text]),
            ("args.1.a=[1,2]", [text]),
            ("kwargs.user.id=42", [five]),
            ("kwargs.user.name=Ada", [five]),
            ("kwargs.user.name=ada", []),
            ('kwargs.user={"id":42,"name":"Ada"}', [five]),
            ("kwargs.x=null", [five]),
            ("kwargs.contains=ünï", [text]),
            ("kwargs.a__b=true", [text]),
            ("kwargs.a'b=1", []),
            ('kwargs.a"b=1', []),
            ("kwargs.a%b=1", []),
            ("args.0=5 kwargs.user.id=42", [five]),
            ("args.0=5 kwargs.user.id=43", []),
            ("args.0=5 store_tasks", [five]),
        ):
            for status in ("", "READY"):
                with self.subTest(query, status=status):
                    page = JobSearch(status=status, **parse_text(query)).page(USING)
                    self.assertEqual(page.jobs, expected)

    def test_pages_follow_each_other_in_every_order(self) -> None:
        now = NOW()
        for status in ("READY", "SCHEDULED", "RUNNING", "PAUSED", "SUCCESSFUL", "FAILED"):
            make_jobs(
                40,
                status=status,
                backend_name=lambda n: ("default", "other")[n % 2],
                queue_name=lambda n: "ab"[n // 2 % 2],
                priority=lambda n: n // 4 % 3,
                # Many are equal, so that it is the id that decides.
                run_at=lambda n: now + timedelta(seconds=n % 3),
                finished_at=lambda n, s=status: (
                    now - timedelta(seconds=n % 4) if s in ("SUCCESSFUL", "FAILED") else None
                ),
                worker_id=lambda n: f"w{n % 5}",
                task_path=lambda n: f"t{n % 2}",
            )
        for query in (
            *("", "status=READY", "status=READY&queue_name=a", "status=READY&backend_name=other"),
            *("status=SCHEDULED", "status=RUNNING", "status=PAUSED", "status=PAUSED&task_path=t1"),
            *("status=SUCCESSFUL", "status=FAILED", "queue_name=a", "status=READY&q=t1"),
            *("status=SUCCESSFUL&queue_name=b", "status=SCHEDULED&task_path=t0"),
        ):
            wanted = set(Job.objects.filter(asked(query).matches()).values_list("id", flat=True))
            self.assertTrue(wanted)
            for size, rows in ((7, 10_000), (7, 10), (50, 9), (500, 10_000)):
                inorder = self.found(query, size=500)
                with self.subTest(query, size=size), mock.patch.object(search, "WINDOW", rows):
                    ids, after, pages = [], None, 0
                    while pages == 0 or after:
                        page = asked(query).page(USING, after, size)
                        self.assertLessEqual(len(page.jobs), size)
                        ids += [job.id for job in page.jobs]
                        after, pages = page.after, pages + 1
                    self.assertEqual(len(ids), len(set(ids)))
                    self.assertEqual(set(ids), wanted)
                    self.assertEqual(ids, inorder)
        self.assertEqual(
            self.found("status=READY&queue_name=a&backend_name=default", size=500),
            list(
                Job.objects.filter(status="READY", queue_name="a", backend_name="default")
                .order_by("-priority", "run_at", "id")
                .values_list("id", flat=True)
            ),
        )

    def test_a_page_that_is_not_full_says_how_far_it_has_looked(self) -> None:
        [oldest] = make_jobs(task_path="rare")
        jobs = make_jobs(30)
        with mock.patch.object(search, "WINDOW", 20):
            first = asked("q=rare").page(USING)
            self.assertEqual((first.jobs, first.looked), ([], 20))
            self.assertEqual(first.looked_to, time_of(jobs[10].id))
            second = asked("q=rare").page(USING, first.after)
            self.assertEqual((second.jobs, second.after, second.looked), ([oldest], None, 0))

    def test_a_link_to_no_page_is_refused(self) -> None:
        for query, after in (
            ("", "x"),
            ("", "[]"),
            ("", "5"),
            ("", '["x"]'),
            ("", "[null]"),
            ("status=FAILED", '["yesterday", "x"]'),
            ("status=FAILED", f'[null, "{uuid4()}"]'),
            ("status=READY", "[1, 2, 3, 4, 5]"),
            ("", "[" * 100_000),
        ):
            with self.subTest(query, after=after[:20]), self.assertRaises(SearchError):
                asked(query).page(USING, after)

    def test_times_bound_what_is_read_if_the_ids_tell_times(self) -> None:
        make_jobs(30, enqueued_at=NOW() - timedelta(days=2), id=lambda n: _at(-2 * 86400 + n))
        [new] = make_jobs(id=_at(0))
        self.assertEqual(self.found("since=1d"), [new.id])
        with mock.patch.object(search, "WINDOW", 5):
            self.assertEqual(asked("since=1d").page(USING).looked, 0)
            until = JobSearch(until=NOW() - timedelta(days=1))
            self.assertEqual(len(until.page(USING, size=5).jobs), 5)
        # Random ids say nothing: the times themselves are looked at.
        [random] = make_jobs(id=UUID("ffffffff-0000-4000-8000-000000000000"))
        self.assertEqual(set(self.found("since=1d")), {new.id, random.id})

    def test_steps_bring_every_job_once_and_none_enqueued_later(self) -> None:
        make_jobs(25)
        before = NOW()
        make_jobs(5, enqueued_at=before + timedelta(seconds=1))
        for each in (JobSearch(), JobSearch(status="READY"), JobSearch(text="again")):
            with mock.patch.object(search, "WINDOW", 7):
                ids = [id for page in each.pages(USING, before, size=4) for id in page]
                self.assertEqual((len(ids), len(set(ids))), (25, 25))
                steps = list(each.steps(USING, before, size=4))
                [tail] = [steps[3].after]
                rest = [id for step in each.steps(USING, before, 4, tail) for id in step.ids]
                self.assertEqual(rest, [id for step in steps[4:] for id in step.ids])

    def test_the_number_of_statements_does_not_grow(self) -> None:
        queries = (
            *("", "status=READY", "status=READY&queue_name=default", "q=nothing", "status=FAILED"),
            *("args.0=5", "status=SUCCESSFUL&q=nothing", "since=1h"),
        )
        counts = []
        for _ in range(2):
            make_jobs(300, args=[1])
            make_jobs(300, status="FAILED", finished_at=NOW())
            counts.append([])
            for query in queries:
                with CaptureQueriesContext(connection) as captured:
                    asked(query).page(USING, size=20)
                counts[-1].append(len(captured))
        self.assertEqual(counts[0], counts[1])
        self.assertLessEqual(max(counts[0]), 8)


def _at(seconds: float) -> UUID:
    """Return an id of version 7 made so many seconds from now."""
    made = uuid7()
    stamp = (made.int >> 80) + int(seconds * 1000)
    return UUID(int=stamp << 80 | made.int & (1 << 80) - 1)
