"""Collects the tests of the store whose database this run is on."""

from tests.settings import TEST_DB

FILES = {
    "test_sqlite.py": "sqlite",
    "test_postgresql.py": "postgres",
    "test_pgbouncer.py": "postgres",
    "test_mysql.py": "mysql",
}
collect_ignore = [file for file, database in FILES.items() if database != TEST_DB]
