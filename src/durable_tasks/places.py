"""Where an error was raised: the file and the function, as they outlive an edit and a deploy."""

import re
from functools import lru_cache
from pathlib import Path, PurePath
from types import TracebackType

# What this package's own frames begin with.
_PACKAGE = f"{Path(__file__).parent}/"
# Code without a file, installed packages, and Python's own library.
_OTHERS = re.compile(r"^<|/(site|dist)-packages/|/lib(64)?/python\d[\d.]*t?/")
# Characters: what the column for it takes.
MAX_PLACE = 255


@lru_cache(maxsize=4096)
def is_own(filename: str) -> bool:
    """Return whether a frame's file, as tracebacks name it, is the project's own.

    That is: neither installed, nor Python's, nor of this package. Tells by the name alone, so that
    a traceback from another host can be asked about.
    """
    return not _OTHERS.search(filename) and not _is_ours(filename)


def place_of(exception: BaseException) -> str:
    """Return where an exception was raised: ``shop/tasks.py in charge``, or "" if that is unknown.

    It is the innermost frame of the project's own code; without one, the innermost that is not of
    this package. The path comes from the module's name, so that it is the same on every host. At
    most 255 characters.
    """
    found = innermost = None
    traceback = exception.__traceback__
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if is_own(filename):
            found = traceback
        if not _is_ours(filename):
            innermost = traceback
        traceback = traceback.tb_next
    found = found or innermost
    return "" if found is None else _shown(found)[:MAX_PLACE]


def _is_ours(filename: str) -> bool:
    return filename.startswith(_PACKAGE)


def _shown(traceback: TracebackType) -> str:
    frame = traceback.tb_frame
    file = PurePath(frame.f_code.co_filename)
    module = str(frame.f_globals.get("__name__", ""))
    path = file.name
    if file.stem == "__init__":
        path = f"{module.replace('.', '/')}/{file.name}"
    elif module.rpartition(".")[2] == file.stem:
        path = module.replace(".", "/") + file.suffix
    text = f"{path} in {frame.f_code.co_qualname}"
    return text.replace("\0", "").encode("utf-8", "replace").decode()
