"""Virtual environments for other packages: made once, kept in `.venvs` of the checkout."""

import fcntl
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALL_SECONDS = 240
# After an installation that failed none is tried for so many seconds: there may be no network.
PAUSE_SECONDS = 300


class InstallFailed(Exception):
    """An environment could not be made, perhaps for want of a network; the text says why."""


def make_environment(folder: Path, wanted: Sequence[str]) -> Path:
    """Return the Python of an environment that has what is wanted, made anew if it has not.

    ``wanted``: requirements, as pip takes them. It has our version of Python, and whoever comes
    while another process makes it waits. Raises ``InstallFailed``.
    """
    python = folder / "bin" / "python"
    stamp = folder / ".ready"
    made_of = "\n".join([sys.version, *wanted])
    failed = folder.parent / "install-failed"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == made_of:
            return python
        if failed.exists() and time.time() - failed.stat().st_mtime < PAUSE_SECONDS:
            raise InstallFailed(f"{failed.read_text()} (Not tried again: {failed} is new.)")
        print(f"Installing {', '.join(wanted)} in {folder.relative_to(ROOT)}", flush=True)
        base = getattr(sys, "_base_executable", None) or sys.executable
        try:
            _run([ROOT / "scripts" / "make-venv", folder, base])
            _run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *wanted])
        except InstallFailed as error:
            failed.write_text(str(error))
            raise
        failed.unlink(missing_ok=True)
        stamp.write_text(made_of)
    return python


def _run(command: Sequence[str | Path]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise InstallFailed(f"{command[0]} took more than {INSTALL_SECONDS} s.") from error
    except OSError as error:
        raise InstallFailed(f"{command[0]} can't be run: {error}") from error
    if done.returncode:
        raise InstallFailed(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
