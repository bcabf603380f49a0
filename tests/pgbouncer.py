"""A real PgBouncer in front of the test's PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

import psycopg
from django.db import connections

from .servers import START_SECONDS, free_port, unprivileged

# Ends with its standard input, so that even a runner that was killed leaves none behind; it has
# nothing to save.
WATCHED = '"$@" </dev/null & pooler=$!; read -r _; kill -KILL $pooler; wait $pooler'


@dataclass(frozen=True)
class PgBouncer:
    """Lets anyone in, to any database, as the user of the tests."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://pooled@{self.host}:{self.port}/postgres"

    @property
    def settings(self) -> dict[str, str]:
        """What a connection's settings have to say instead of their own."""
        return {"HOST": self.host, "PORT": str(self.port), "USER": "pooled", "PASSWORD": ""}

    def connect(self, **options: Any) -> "psycopg.Connection[Any]":
        """Return a plain connection to the test's database."""
        name = connections["default"].settings_dict["NAME"]
        return psycopg.connect(
            host=self.host,
            port=self.port,
            dbname=name,
            user="pooled",
            autocommit=True,
            prepare_threshold=None,
            **options,
        )


@contextmanager
def running_pgbouncer(**settings: Any) -> Iterator[PgBouncer]:
    """Give a PgBouncer with these settings that is gone after the block.

    Where it is not installed the test is skipped, or fails if CI is set.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        if os.environ.get("CI"):
            raise AssertionError("PgBouncer is not installed. Debian: apt-get install pgbouncer.")
        raise SkipTest("PgBouncer is not installed.")
    pooler = PgBouncer("127.0.0.1", free_port())
    user = unprivileged()
    with tempfile.TemporaryDirectory(prefix="durable-tasks-pgbouncer-") as name:
        folder = Path(name)
        config, log = folder / "pgbouncer.ini", folder / "log"
        config.write_text(_config(pooler, settings))
        if user:  # it may have a password in it, so the others still can't read it
            shutil.chown(folder, user["user"])
            shutil.chown(config, user["user"])
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["sh", "-c", WATCHED, "sh", program, str(config)],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the tests alone.
                start_new_session=True,
                **user,
            )
        assert process.stdin is not None
        try:
            _wait_for(pooler)
            yield pooler
        except BaseException as error:
            error.add_note(f"PgBouncer's log ends in:\n{log.read_text(errors='replace')[-3000:]}")
            raise
        finally:
            process.stdin.close()
            process.wait()


def _config(pooler: PgBouncer, settings: dict[str, Any]) -> str:
    database = connections["default"].settings_dict
    server = {
        "host": database["HOST"],
        "port": database["PORT"],
        "user": database["USER"],
        "password": database["PASSWORD"],
    }
    words = [
        f"{key}='{value.replace(chr(39), chr(39) * 2)}'" for key, value in server.items() if value
    ]
    lines = {
        "listen_addr": pooler.host,
        "listen_port": pooler.port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        **settings,
    }
    return "\n".join(
        [
            "[databases]",
            f"* = {' '.join(words)}",
            "[pgbouncer]",
            *(f"{key} = {value}" for key, value in lines.items()),
            "",
        ]
    )


def _wait_for(pooler: PgBouncer) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            pooler.connect().close()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return
