from io import StringIO
from typing import Any
from unittest import mock, skipUnless

from django.core.checks import CheckMessage
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import DatabaseError, connection, connections
from django.test import TestCase, modify_settings, override_settings

from durable_tasks import Periodic
from durable_tasks.backend import DatabaseBackend
from durable_tasks.checks import check_database, check_deployed_database, check_deployment
from durable_tasks.compat import task_backends
from durable_tasks.store import Store, advice, store_for
from tests.helpers import WorkerTestCase, tasks_setting

if connection.vendor == "postgresql":
    from tests.pgbouncer import running_pgbouncer  # needs psycopg

BACKEND = "durable_tasks.DatabaseBackend"
AUTOVACUUM = advice._AUTOVACUUM


def store_class() -> type[Store]:
    return type(store_for(connection))


class ToNowhere:
    """A router that sends everything to a database that does not exist."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "nowhere"


class BackendCheckTests(TestCase):
    databases = {"default", "other"}  # "check" asks both what they support

    def assert_error(self, id: str, text: str, hint: str, **options: Any) -> None:
        [error] = self.check(**options)
        self.assertEqual(error.id, id)
        self.assertTrue(error.is_serious())
        self.assertIn(text, error.msg)
        self.assertIn(hint, error.hint or "")

    def check(self, **options: Any) -> list[CheckMessage]:
        return list(DatabaseBackend("mail", {"BACKEND": BACKEND, "OPTIONS": options}).check())

    def test_good_settings_have_nothing_to_say(self) -> None:
        self.assertEqual(self.check(worker_timeout=5), [])

    @modify_settings(INSTALLED_APPS={"remove": ["durable_tasks"]})
    def test_E001_the_app_is_missing(self) -> None:
        self.assert_error(
            "durable_tasks.E001",
            'TASKS["mail"] uses durable_tasks, which is not in INSTALLED_APPS.',
            'Add "durable_tasks" to INSTALLED_APPS',
        )

    def test_E008_a_schedulable_path_leads_to_no_task(self) -> None:
        self.assertEqual(self.check(schedulable=["tests.app.tasks.echo"]), [])
        for path in ("tests.app.tasks.gone", "os.system"):
            with self.subTest(path=path):
                self.assert_error(
                    "durable_tasks.E008", path, "Correct the path", schedulable=[path]
                )

    def test_E007_a_periodic_task_leads_nowhere_or_has_bad_arguments(self) -> None:
        echo, add = "tests.app.tasks.echo", "tests.app.tasks.add"
        key = "The key is the path of a task, or a name beside Periodic(task=...)."
        call = "can't be called with its arguments: missing a required"
        for spec, text, hint in (
            (
                Periodic("1h", task="tests.app.tasks.gone"),
                "'tests.app.tasks.gone' can't be imported",
                key,
            ),
            (Periodic("1h", task="tests.app.tasks.PATIENCE"), "is no task but int", key),
            (Periodic("1h", [object()], task=echo), "args[0]", None),
            (Periodic("1h", task=add), call, None),
            (
                Periodic("1h", [1], {"c": 2}, task=add),
                "got an unexpected keyword argument 'c'",
                None,
            ),
            (Periodic("1h", priority=1000, task=echo), "priority", None),
            (Periodic("1h", queue_name="mail", task=echo), "'mail'", None),
        ):
            backend = {"BACKEND": BACKEND, "OPTIONS": {"periodic": {echo: "1h", "x": spec}}}
            with self.subTest(text), self.settings(TASKS={**tasks_setting(), "mail": backend}):
                [error] = task_backends["mail"].check()
                self.assertEqual(error.id, "durable_tasks.E007")
                self.assertIn('TASKS["mail"]["OPTIONS"]["periodic"]["x"]: ', error.msg)
                self.assertIn(text, error.msg)
                self.assertEqual(error.hint, hint)

    def test_E002_an_option_is_wrong(self) -> None:
        for options, key, hint in (
            ({"worker_timeout": "x"}, "worker_timeout", "table of options"),
            ({"nonsense": 1}, "nonsense", "table of options"),
            ({"id_function": "no.where"}, "id_function", "table of options"),
            ({"retain": {"a.b": "1x"}}, 'retain"]["a.b', "table of options"),
            ({"periodic": {"a.b": "1x"}}, 'periodic"]["a.b', "docs/how-to/periodic.md"),
            ({"periodic": []}, "periodic", "docs/how-to/periodic.md"),
        ):
            with self.subTest(key):
                self.assert_error(
                    "durable_tasks.E002",
                    f'TASKS["mail"]["OPTIONS"]["{key}"]',
                    hint,
                    **options,
                )

    def test_W002_a_rule_is_for_a_task_that_is_not_there(self) -> None:
        rules = {"*": "7d", "tests.app.tasks.add": 0, "tests.app.tasks.moved": "1d"}
        for name in ("retain", "retain_failed"):
            with self.subTest(name):
                [warning] = self.check(**{name: rules})
                self.assertEqual(warning.id, "durable_tasks.W002")
                self.assertFalse(warning.is_serious())
                self.assertIn(f'TASKS["mail"]["OPTIONS"]["{name}"] names no task', warning.msg)
                self.assertIn("tests.app.tasks.moved", warning.msg)
        self.assertEqual(self.check(retain="7d"), [])

    def test_W003_immediate_leaves_nobody_to_fire_periodic_tasks(self) -> None:
        for immediate in (True, False):
            options = {"immediate": immediate, "periodic": {"tests.app.tasks.echo": "1h"}}
            backend = {"BACKEND": BACKEND, "QUEUES": [], "OPTIONS": options}
            with self.settings(TASKS={**tasks_setting(), "mail": backend}):
                found = task_backends["mail"].check()
            self.assertEqual([each.id for each in found], ["durable_tasks.W003"] * immediate)
            for warning in found:
                self.assertFalse(warning.is_serious())
                self.assertIn('"immediate" and "periodic"', warning.msg)

    @override_settings(DATABASE_ROUTERS=["tests.test_checks.ToNowhere"])
    def test_E003_the_router_names_no_database(self) -> None:
        self.assert_error(
            "durable_tasks.E003",
            "sends durable_tasks.Job to 'nowhere', which is not in DATABASES",
            "Known databases: default, other.",
        )

    def test_E004_there_is_no_store_for_the_database(self) -> None:
        with mock.patch.object(connection, "vendor", "oracle"):
            self.assert_error("durable_tasks.E004", "of the kind 'oracle'", "with a router")

    def test_E004_the_driver_is_not_supported(self) -> None:
        with mock.patch.object(store_class(), "driver_problem", return_value="Too old."):
            self.assert_error("durable_tasks.E004", "Too old.", "another driver")

    @override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": {"worker_timeout": None}}})
    def test_manage_py_check_says_it(self) -> None:
        with self.assertRaises(SystemCheckError) as caught:
            call_command("check")
        self.assertIn("durable_tasks.E002", str(caught.exception))
        self.assertIn('TASKS["default"]["OPTIONS"]["worker_timeout"]', str(caught.exception))
        self.assertIn("HINT", str(caught.exception))


class DatabaseCheckTests(TestCase):
    def check(self, *databases: str) -> list[CheckMessage]:
        return check_database(databases=databases or ("default",))

    def test_a_good_database_has_nothing_to_say(self) -> None:
        output = StringIO()
        call_command("check", databases=["default"], stdout=output)
        self.assertIn("no issues", output.getvalue())
        self.assertEqual(self.check(), [])

    def test_only_the_databases_asked_for_are_asked(self) -> None:
        with mock.patch("durable_tasks.store.store_for") as made:
            self.assertEqual(self.check("other"), [])
            self.assertEqual(check_database(databases=None), [])
            self.assertEqual(check_database(), [])
        made.assert_not_called()

    def test_E005_the_server_is_too_old(self) -> None:
        with mock.patch.object(store_class(), "server_problem", return_value="Too old."):
            [error] = self.check()
        self.assertEqual(error.msg, "Too old.")
        self.assertEqual(error.id, "durable_tasks.E005")
        self.assertTrue(error.is_serious())

    def test_E006_tables_are_missing(self) -> None:
        ours = sorted(
            name
            for name in connection.introspection.table_names()
            if name.startswith("durable_tasks_")
        )
        self.assertGreater(len(ours), 5)
        for tables, text in (
            ([], f"no table {', '.join(ours)}."),
            (set(ours) - {"durable_tasks_pause"}, "no table durable_tasks_pause."),
        ):
            with (
                self.subTest(tables=tables),
                mock.patch.object(connection.introspection, "table_names", return_value=tables),
            ):
                [error] = self.check()
                self.assertEqual(error.id, "durable_tasks.E006")
                self.assertIn(text, error.msg)
                self.assertEqual(error.hint, "Run manage.py migrate --database default.")

    def test_tables_that_migrate_is_about_to_make_are_not_missed(self) -> None:
        with (
            mock.patch.object(connection.introspection, "table_names", return_value=[]),
            mock.patch("sys.argv", ["manage.py", "migrate"]),
        ):
            self.assertEqual(self.check(), [])

    def test_W001_advice_on_settings_is_a_warning(self) -> None:
        advice = [("Slow.", "Set this.")]
        with mock.patch.object(store_class(), "settings_advice", return_value=advice):
            [warning] = self.check()
        self.assertEqual(
            (warning.id, warning.msg, warning.hint), ("durable_tasks.W001", "Slow.", "Set this.")
        )
        self.assertFalse(warning.is_serious())

    def test_a_database_that_does_not_answer_is_left_to_others_to_report(self) -> None:
        with mock.patch.object(
            connection.introspection, "table_names", side_effect=DatabaseError("down")
        ):
            self.assertEqual(self.check(), [])

    @override_settings(DATABASE_ROUTERS=["tests.test_checks.ToNowhere"])
    def test_a_router_to_nowhere_is_left_to_the_settings_check(self) -> None:
        self.assertEqual(self.check("default", "nowhere"), [])


class DeployTests(TestCase):
    """``manage.py check --deploy``."""

    databases = {"default", "other"}

    def ids(self, *databases: str, **options: Any) -> dict[str, CheckMessage]:
        with self.settings(TASKS=tasks_setting(**options)):
            found = check_deployment(databases=databases)
        return {message.id.rpartition(".")[2]: message for message in found if message.id}

    def database(self, **changes: Any) -> Any:
        return mock.patch.dict(connection.settings_dict, changes)

    def test_good_settings_have_nothing_to_say(self) -> None:
        with self.database(CONN_MAX_AGE=60):
            self.assertEqual(self.ids(retain="30d"), {})
            self.assertEqual(self.ids(retain=None), {})  # on purpose
            with self.settings(TASKS={}, DEBUG=True):
                self.assertEqual(check_deployment(), [])

    def test_manage_py_says_it_with_deploy_only(self) -> None:
        with self.settings(TASKS=tasks_setting(immediate=True)):
            for arguments, says in (([], False), (["--deploy"], True)):
                errors = StringIO()
                call_command("check", *arguments, stderr=errors, stdout=StringIO())
                for number in (102, 103):
                    with self.subTest(arguments=arguments, number=number):
                        self.assertEqual(f"durable_tasks.W{number}" in errors.getvalue(), says)

    def test_W102_history_grows_for_ever(self) -> None:
        warning = self.ids()["W102"]
        self.assertIn('TASKS["default"]["OPTIONS"] has no "retain"', warning.msg)
        self.assertIn('["retain"] = "30d"', warning.hint or "")

    def test_W103_tasks_run_in_requests(self) -> None:
        warning = self.ids(immediate=True)["W103"]
        self.assertIn('TASKS["default"]["OPTIONS"]["immediate"] is on', warning.msg)

    @override_settings(DEBUG=True)
    def test_W104_debug_is_on(self) -> None:
        self.assertIn("DEBUG is on", self.ids()["W104"].msg)

    def test_W101_sqlite_without_immediate_transactions(self) -> None:
        with (
            mock.patch.object(connection, "vendor", "sqlite"),
            self.database(OPTIONS={}, CONN_MAX_AGE=0),
        ):
            warning = self.ids()["W101"]
            self.assertIn('DATABASES["default"]["OPTIONS"]["transaction_mode"]', warning.hint or "")
            self.assertNotIn("W101", self.ids("default"))  # W001 says it
            self.assertNotIn("W105", self.ids())
        with (
            mock.patch.object(connection, "vendor", "sqlite"),
            self.database(OPTIONS={"transaction_mode": "IMMEDIATE"}),
        ):
            self.assertNotIn("W101", self.ids())

    def test_W105_each_task_connects_anew(self) -> None:
        with mock.patch.object(connection, "vendor", "postgresql"):
            with self.database(CONN_MAX_AGE=0):
                warning = self.ids()["W105"]
                self.assertIn('DATABASES["default"]["CONN_MAX_AGE"] is 0', warning.msg)
            with self.database(CONN_MAX_AGE=0, OPTIONS={"pool": True}):
                self.assertNotIn("W105", self.ids())
            for age in (60, None):
                with self.database(CONN_MAX_AGE=age):
                    self.assertNotIn("W105", self.ids())

    def test_wrong_options_are_left_to_their_own_check(self) -> None:
        self.assertEqual(self.ids(nonsense=1), {})
        with self.settings(TASKS=tasks_setting(nonsense=1)):
            self.assertEqual(check_deployed_database(databases=["default"]), [])

    @override_settings(DATABASE_ROUTERS=["tests.test_checks.ToNowhere"])
    def test_a_router_to_nowhere_is_left_to_the_settings_check(self) -> None:
        self.assertEqual(self.ids(retain=None), {})
        self.assertEqual(check_deployed_database(databases=["default", "nowhere"]), [])


def autovacuum(value: str) -> Any:
    """Let the server's own setting seem so."""
    sql = AUTOVACUUM.replace("current_setting('autovacuum')", f"'{value}'")
    return mock.patch.object(advice, "_AUTOVACUUM", sql)


class DeployedDatabaseTests(TestCase):
    """``manage.py check --deploy --database default``."""

    def setUp(self) -> None:
        self.enterContext(autovacuum("on"))

    def found(self, **options: Any) -> list[CheckMessage]:
        with self.settings(TASKS=tasks_setting(**options)):
            return check_deployed_database(databases=["default"])

    def test_a_good_database_has_nothing_to_say(self) -> None:
        self.assertEqual(self.found(), [])

    def test_only_the_databases_asked_for_are_asked(self) -> None:
        with mock.patch("durable_tasks.store.store_for") as made:
            self.assertEqual(check_deployed_database(databases=["other"]), [])
            self.assertEqual(check_deployed_database(), [])
        made.assert_not_called()

    def test_a_database_that_does_not_answer_is_left_to_others_to_report(self) -> None:
        with mock.patch.object(store_class(), "vacuum_advice", side_effect=DatabaseError("down")):
            self.assertEqual(self.found(), [])

    def test_W107_for_each_backend_that_would_listen(self) -> None:
        with mock.patch.object(store_class(), "cannot_hear", return_value=True) as asked:
            [warning] = self.found()
            self.assertEqual(warning.id, "durable_tasks.W107")
            self.assertIn('TASKS["default"]["OPTIONS"]["listen_database"]', warning.hint or "")
            asked.reset_mock()
            for options in ({"notify": False}, {"listen_database": "other"}, {"immediate": True}):
                self.assertEqual(self.found(**options), [])
            asked.assert_not_called()


@skipUnless(connection.vendor == "postgresql", "of PostgreSQL")
class VacuumTests(TestCase):
    """W106: what the catalogue says of the jobs' table."""

    def setUp(self) -> None:
        self.enterContext(autovacuum("on"))

    def advice(self, rows: int = 0, *options: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE pg_class SET reltuples = %s, reloptions = %s "
                "WHERE oid = 'durable_tasks_job'::regclass",
                [rows, list(options) or None],
            )
        return store_for(connection).vacuum_advice()

    def test_a_small_table_is_vacuumed_often_enough(self) -> None:
        self.assertIsNone(self.advice(-1))
        self.assertIsNone(self.advice(90_000))

    def test_a_large_one_is_not(self) -> None:
        text, hint = self.advice(1_000_000)
        self.assertIn("about 1,000,000 rows and is vacuumed only when 200,050 of them", text)
        with self.settings(TASKS=tasks_setting()):
            [warning] = check_deployed_database(databases=["default"])
        self.assertEqual(
            (warning.id, warning.msg, warning.hint), ("durable_tasks.W106", text, hint)
        )
        # What it says to run is what makes it silent.
        with connection.cursor() as cursor:
            cursor.execute(hint.removeprefix("Run "))
        self.assertIsNone(store_for(connection).vacuum_advice())

    def test_what_was_set_counts(self) -> None:
        self.assertIsNone(self.advice(1_000_000, "autovacuum_vacuum_scale_factor=0.01"))
        self.assertIsNotNone(self.advice(9_000_000, "autovacuum_vacuum_scale_factor=0.01"))

    def test_it_may_be_off(self) -> None:
        text, hint = self.advice(10, "autovacuum_enabled=false")
        self.assertIn("autovacuum is off for durable_tasks_job", text)
        self.assertIn("RESET (autovacuum_enabled)", hint)
        with autovacuum("off"):
            self.assertEqual(self.advice(10)[0], text)


@skipUnless(connection.vendor == "postgresql", "of PostgreSQL")
class HearingTests(WorkerTestCase):
    def test_a_direct_connection_hears(self) -> None:
        self.assertTrue(advice.hears("default"))
        self.assertFalse(store_for(connection).cannot_hear())

    def test_PgBouncer_lets_hear_in_session_mode_only(self) -> None:
        for mode, deaf in (("transaction", True), ("session", False)):
            with (
                self.subTest(mode),
                running_pgbouncer(pool_mode=mode) as pooler,
                mock.patch.dict(connections.settings["default"], pooler.settings),
            ):
                self.assertEqual(store_for(connection).cannot_hear(), deaf)
