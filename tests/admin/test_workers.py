from .base import SCRIPT, AdminTests


class WorkerTests(AdminTests):
    def test_workers_are_shown_with_when_they_were_seen(self):
        self.worker()
        for page in (self.get("worker_changelist"), self.get("worker_change", "w-1")):
            for text in ("w-1", "a-host", "4242"):
                self.assertContains(page, text)
            self.assertRegex(page.content.decode(), r"\d+ s ago")

    def test_a_workers_name_is_escaped(self):
        self.worker(SCRIPT)
        self.assertNotContains(self.get("worker_changelist"), "<script>alert(")
