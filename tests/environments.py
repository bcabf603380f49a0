"""Virtual environments for other packages: made once, kept in `.venvs` of the checkout."""

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALL_SECONDS = 240


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
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == made_of:
            return python
        print(f"Installing {', '.join(wanted)} in {folder.relative_to(ROOT)}", flush=True)
        base = getattr(sys, "_base_executable", None) or sys.executable
        _run([ROOT / "scripts" / "make-venv", folder, base])
        _run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *wanted])
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
