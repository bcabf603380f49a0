"""Where an error was raised."""

import json
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.test import SimpleTestCase
from django.utils.module_loading import import_string

from durable_tasks.places import MAX_PLACE, is_own, place_of
from durable_tasks.results import dumps

pytestmark = pytest.mark.any_database


def raised_by(call: Callable[[], object]) -> BaseException:
    """Return what ``call()`` raises, with the frames from there on."""
    try:
        call()
    except BaseException as error:
        here = error.__traceback__
        error.__traceback__ = here and here.tb_next
        return error
    raise AssertionError("It raised nothing.")


class Shop:
    def charge(self, text: str) -> object:
        return json.loads(text)


@contextmanager
def module(name: str, text: str) -> Iterator[Path]:
    """Give the folder that holds a module of this name, on the path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, *name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sys.path.insert(0, folder)
        try:
            yield path
        finally:
            sys.path.remove(folder)
            for each in [each for each in sys.modules if each.partition(".")[0] == "placed"]:
                del sys.modules[each]


class PlaceTests(SimpleTestCase):
    def test_it_is_the_innermost_frame_of_the_projects_own(self) -> None:
        error = raised_by(lambda: Shop().charge("["))
        self.assertEqual(place_of(error), "tests/test_places.py in Shop.charge")

    def test_the_path_is_the_same_wherever_the_project_is(self) -> None:
        text = "def charge():\n    return 1 / 0\n"
        for name, path in (
            ("placed.tasks", "placed/tasks.py"),
            ("placed.shop.__init__", "placed/shop/__init__.py"),
        ):
            with self.subTest(name), module(name, text):
                charge = import_string(f"{name.removesuffix('.__init__')}.charge")
                self.assertEqual(place_of(raised_by(charge)), f"{path} in charge")

    def test_a_line_more_changes_nothing(self) -> None:
        places = set()
        for text in ("", "import json\n\n"):
            with module("placed.tasks", f"{text}def charge():\n    return 1 / 0\n"):
                places.add(place_of(raised_by(import_string("placed.tasks.charge"))))
        self.assertEqual(places, {"placed/tasks.py in charge"})

    def test_a_script_goes_by_its_name(self) -> None:
        with module("placed.run", "1 / 0") as path:
            error = raised_by(lambda: runpy.run_path(str(path), run_name="__main__"))
        self.assertEqual(place_of(error), "run.py in <module>")

    def test_without_a_frame_of_its_own_it_is_the_innermost(self) -> None:
        self.assertEqual(
            place_of(raised_by(lambda: json.loads("["))).partition(" in ")[0],
            "tests/test_places.py",
        )
        error = raised_by(lambda: Shop().charge("["))
        assert error.__traceback__ is not None
        error.__traceback__ = error.__traceback__.tb_next.tb_next  # type: ignore[union-attr]
        self.assertEqual(place_of(error), "json/decoder.py in JSONDecoder.raw_decode")

    def test_this_package_is_no_place(self) -> None:
        error = raised_by(lambda: dumps(object(), "it"))
        assert error.__traceback__ is not None
        error.__traceback__ = error.__traceback__.tb_next
        self.assertEqual(place_of(error), "")

    def test_what_was_not_raised_has_no_place(self) -> None:
        self.assertEqual(place_of(ValueError("not raised")), "")

    def test_it_is_short_enough_and_storable(self) -> None:
        name = "f" * 300
        for file, function in (("long.py", name), ("\udcff.py", "charge"), ("nul\0.py", "charge")):
            with self.subTest(file=file):
                scope: dict[str, Callable[[], object]] = {}
                # Compiled code takes any name of a file but one with NUL.
                made = compile(f"def {function}():\n    1 / 0", file.replace("\0", "0"), "exec")
                exec(made, scope)
                place = place_of(raised_by(scope[function]))
                self.assertLessEqual(len(place), MAX_PLACE)
                self.assertIn(" in ", place)
                place.encode()


class OwnTests(SimpleTestCase):
    def test_own(self) -> None:
        for name in (
            *("/srv/shop/tasks.py", "shop/tasks.py", __file__, "/home/x/lib/python/shop.py"),
            *("/app/lib/tasks.py", "/srv/site-packages.py", "C:\\shop\\tasks.py"),
        ):
            with self.subTest(name):
                self.assertTrue(is_own(name))

    def test_not_own(self) -> None:
        for name in (
            *("/venv/lib/python3.13/site-packages/django/db/models/base.py", json.__file__),
            *("/usr/lib/python3/dist-packages/yaml/__init__.py", "<string>", "<frozen runpy>"),
            *("/usr/lib64/python3.14t/json/decoder.py", dumps.__code__.co_filename),
        ):
            with self.subTest(name):
                self.assertFalse(is_own(name))
