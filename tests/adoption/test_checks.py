from django.core.checks import Tags, run_checks

from .old import OldTestCase, ended, result
from .test_adopt import adopt


class WaitingCheckTests(OldTestCase):
    def said(self, *databases):
        messages = run_checks(tags=[Tags.database], databases=databases)
        return [each for each in messages if each.id == "durable_tasks.W004"]

    def test_tasks_that_nobody_has_adopted_are_named(self):
        result("one")
        result("two", status="RUNNING")
        result("three", **ended())
        [warning] = self.said("default")
        self.assertIn("django_tasks_database_dbtaskresult has 2 tasks", warning.msg)
        self.assertIn("adopt_tasks", warning.hint)
        self.assertEqual(self.said(), [])
        adopt()
        self.assertEqual(self.said("default"), [])

    def test_history_alone_is_no_reason(self):
        result("three", **ended())
        self.assertEqual(self.said("default"), [])
