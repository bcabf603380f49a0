"""Collects the tests of the store whose database this run is on."""

from tests.settings import TEST_DB

FILES = {
    "sqlite": "test_sqlite.py",
    "postgres": "test_postgresql.py",
    "mysql": "test_mysql.py",
}
collect_ignore = [file for database, file in FILES.items() if database != TEST_DB]
