from django.test import SimpleTestCase

from durable_tasks.redaction import MASK, SECRETS, is_secret, redacted, redacted_text, restored


class RedactionTests(SimpleTestCase):
    def test_values_under_secret_names_are_masked_at_any_depth(self) -> None:
        value = {
            "user": {"name": "Ada", "Password": "x", "tokens": {"a": 1}},
            "list": [{"api_key": ["s"]}, "password", 5, None],
            "MY_CARD_NUMBER": 4111,
        }
        self.assertEqual(
            redacted(value, SECRETS),
            {
                "user": {"name": "Ada", "Password": MASK, "tokens": MASK},
                "list": [{"api_key": MASK}, "password", 5, None],
                "MY_CARD_NUMBER": MASK,
            },
        )
        self.assertEqual(value["list"][0], {"api_key": ["s"]})  # type: ignore[index]
        self.assertEqual(redacted(value, ()), value)

    def test_texts_are_searched_for_names_with_values(self) -> None:
        for text, expected in (
            ("password=hunter2, user=ada", f"password={MASK}, user=ada"),
            ('{"api_key": "a b", "x": 1}', f'{{"api_key": {MASK}, "x": 1}}'),
            ("{'secret': 'a\\'b', 'y': 2}", f"{{'secret': {MASK}, 'y': 2}}"),
            ("login(token = abc)", f"login(token = {MASK})"),
            ("sign(token=b'a', x)", f"sign(token={MASK}, x)"),
            ("Authorization: Bearer ab.cd, next", f"Authorization: {MASK}, next"),
            ("tokens=['a', 'b'] x", f"tokens={MASK} x"),
            ("secret: Decimal('1') x", f"secret: {MASK} x"),
            # Behind a harmless name: of the exception, of an argument, of an address's part.
            ("ValueError: password=hunter2", f"ValueError: password={MASK}"),
            ("ValueError: password: hunter2", f"ValueError: password: {MASK}"),
            ('E: {"password": "hunter2"}', f'E: {{"password": {MASK}}}'),
            ("app.E: failed: password='hunter2'", f"app.E: failed: password={MASK}"),
            ("data={'x': 1, 'password': 'y'}", f"data={{'x': 1, 'password': {MASK}}}"),
            ("headers={'Authorization': 'Bearer x'}", f"headers={{'Authorization': {MASK}}}"),
            ("call(kwargs={'password': 'x'}, y=1)", f"call(kwargs={{'password': {MASK}}}, y=1)"),
            ("url=https://x/?token=hunter2 bad", f"url=https://x/?token={MASK} bad"),
            ("[('password', 'x'), ('y', 'z')]", f"[('password', {MASK}), ('y', 'z')]"),
            ('if password == "abc":', f"if password == {MASK}:"),
            ("db = connect(user='u', password='a b')", f"db = connect(user='u', password={MASK})"),
            ("run --password=x --all", f"run --password={MASK} --all"),
            # In a text in a text, in brackets in brackets, with brackets in texts.
            ('body=\'{\\"password\\": \\"a b\\", 1}\'', f"body='{{\\\"password\\\": {MASK}, 1}}'"),
            ("tokens={'a': {'b': 1}, 'c': [2]}, x", f"tokens={MASK}, x"),
            ("tokens=['a]', \"b'\", 'c'], x", f"tokens={MASK}, x"),
            # Cut off: no more than the line.
            ("password='a b\n  next line", f"password={MASK}\n  next line"),
            ("password='a\\", f"password={MASK}"),
            ("token = sign(\n  next line", f"token = {MASK}\n  next line"),
            ("tokens=['a', \"b", f"tokens={MASK}"),
            ("password=", "password="),
            ("amqp://u:pw@host:1/v failed", f"amqp://u:{MASK}@host:1/v failed"),
            ("http://host:80/a@b", "http://host:80/a@b"),
            ("ValueError: wrong password hunter2", "ValueError: wrong password hunter2"),
            ("File x.py, line 5\n  total = a + b", "File x.py, line 5\n  total = a + b"),
        ):
            with self.subTest(text):
                self.assertEqual(redacted_text(text, SECRETS), expected)

    def test_long_texts_take_no_longer_than_their_length(self) -> None:
        for part in (
            "a",
            "-",
            "a-",
            "a ",
            "a= ",
            "password=",
            "password='",
            "password=(",
            "'",
            "\\",
            '\\"',
            "://a",
        ):
            with self.subTest(part):
                redacted_text(part * (400_000 // len(part)), SECRETS)

    def test_what_was_masked_is_put_back(self) -> None:
        before = {"user": "ada", "password": "x", "list": [{"token": 5}, 1]}
        shown = redacted(before, SECRETS)
        self.assertEqual(restored(shown, before), before)
        shown["list"].append(MASK)
        shown["other"] = MASK
        del shown["password"]
        changed = {"user": "ada", "list": [{"token": 5}, 1, MASK], "other": MASK}
        self.assertEqual(restored(shown, before), changed)
        for odd in (None, [], 5, "x"):
            self.assertEqual(restored(shown, odd), shown)

    def test_patterns_match_whole_names_in_any_case(self) -> None:
        self.assertTrue(is_secret("PIN", ("pin",)))
        self.assertFalse(is_secret("pinned", ("pin",)))
        self.assertFalse(is_secret("anything", ()))
