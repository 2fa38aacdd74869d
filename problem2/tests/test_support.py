"""What every command needs: the folder that both problems share, digests, and which run is which."""

import hashlib
import io
import json
import unittest

import torch

from support.digests import file_digest, records_of_other_weights, weights_digest
from support.files import write_json
from support.lines import answer_lines, read_lines
from support.runs import difference
from tests.helpers import RESULTS, TemporaryFolder

SHARED = ("support/*.*", "speed/measuring.py", "tests/chromium.py")


class Shared(unittest.TestCase):
    @unittest.skipUnless((RESULTS.parent.parent / "problem1").is_dir(), "the folder is on its own")
    def test_both_problems_have_the_same_files(self):
        for pattern in SHARED:
            contents = [{path.name: path.read_bytes() for path in (RESULTS.parent.parent / problem).glob(pattern)}
                        for problem in ("problem1", "problem2")]
            self.assertTrue(contents[0])
            self.assertEqual(contents[0].keys(), contents[1].keys())
            self.assertEqual([name for name in contents[0] if contents[0][name] != contents[1][name]], [])


class Digests(TemporaryFolder):
    def test_a_file_s_is_that_of_its_bytes(self):
        (self.folder / "x").write_bytes(b"abc")
        self.assertEqual(file_digest(self.folder / "x"), hashlib.sha256(b"abc").hexdigest())

    def test_weights_have_the_same_in_any_file_and_another_if_a_value_a_name_or_a_type_differs(self):
        state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.0), "_extra_state": {"not": "a tensor"}}
        same = weights_digest(state)
        torch.save(state, self.folder / "x")
        self.assertEqual(weights_digest(torch.load(self.folder / "x", weights_only=True)), same)
        self.assertEqual(weights_digest({"a": state["a"].T.contiguous().T, "b": state["b"].clone()}), same)
        for change in ({"a": state["a"] + 1e-6}, {"a": state["a"].flatten()},
                       {"b": torch.tensor(1.0, dtype=torch.float64)}):
            self.assertNotEqual(weights_digest(state | change), same)
        self.assertNotEqual(weights_digest({"c": state["a"], "b": state["b"]}), same)
        self.assertEqual(len(weights_digest({"h": torch.zeros(2, dtype=torch.bfloat16)})), 64)

    def test_records_of_other_weights_are_found(self):
        for name, value in [("mine", {"weights_sha256": "1"}), ("other", {"weights_sha256": "2"}), ("none", {}),
                            ("list", [1]), ("in/other", {"weights_sha256": "2"}),
                            ("several", {"weights_sha256": {"one": "1", "two": "2"}})]:
            write_json(self.folder / f"{name}.json", value)
        (self.folder / "broken.json").write_text("{")
        found = lambda *arguments: [path.stem
                                    for path in records_of_other_weights(self.folder, *arguments)]  # noqa: E731
        self.assertEqual(found("1"), ["other", "other"])
        self.assertEqual(found("1", "one"), found("1"))
        self.assertIn("several", found("1", "two"))


class Json(TemporaryFolder):
    def test_floats_have_as_many_digits_as_mean_something(self):
        value = {"a": [1 / 3, 2e-9 / 3, (True, None, 10 ** 20)], "b": {"c": 1234567.0, "d": "0.123456789"}}
        write_json(self.folder / "x.json", value)
        self.assertEqual(json.loads((self.folder / "x.json").read_text()),
                         {"a": [0.333333, 6.66667e-10, [True, None, 10 ** 20]],
                          "b": {"c": 1234570.0, "d": "0.123456789"}})


class Runs(unittest.TestCase):
    def test_the_first_entry_that_differs_is_named(self):
        saved = {"seed": 0, "training": {"lr": 0.002, "epochs": 22}, "more": 1}
        self.assertIsNone(difference(saved, {"seed": 0, "training": {"lr": 0.002}}))
        self.assertEqual(difference(saved, {"seed": 0, "training": {"lr": 0.5, "epochs": 1}}), "lr 0.002, now 0.5")
        self.assertEqual(difference(saved, {"new": "c" * 64}), "new None, now cccccccccccc...")
        self.assertIsNone(difference({"lr": 0.123457}, {"lr": 0.123456789}))
        self.assertEqual(difference({"training": 3}, {"training": {}}), "training 3, now {}")


class Lines(unittest.TestCase):
    class Slow(io.BytesIO):
        """A stream on which a few bytes at a time arrive."""

        def read1(self, size=-1):
            return super().read1(3)

    def lines(self, content, longest=5):
        parts = [list(read_lines(stream(content), longest)) for stream in (io.BytesIO, self.Slow)]
        flat = [[line for lines in part for line in lines] for part in parts]
        self.assertEqual(*flat)
        return flat[0]

    def test_lines_and_their_ends(self):
        self.assertEqual(self.lines(b""), [])
        self.assertEqual(self.lines(b"one\n\ntwo\r\nthree"), ["one", "", "two", "three"])
        self.assertEqual(self.lines(b"\xef\xbb\xbf12345\n\xff\n"), ["12345", "\ufffd"])

    def test_long_lines_are_passed_over_wherever_they_are_cut(self):
        for length in (5, 6, 7, 27, 28, 29, 30, 1000, 200_000):
            for end in (b"", b"\n", b"\nabc", b"\r\nabc\n"):
                expected = ["1" * 5 if length == 5 else None] + (["abc"] if b"abc" in end else [])
                self.assertEqual(self.lines(b"1" * length + end), expected, (length, end))
        self.assertEqual(self.lines("٣".encode() * 5 + b"\n"), ["٣" * 5])

    def test_what_has_arrived_is_answered_before_more_is_read(self):
        output, read = io.StringIO(), []

        class Pipe(io.BytesIO):
            def read1(self, size=-1):
                self_read = super().read1(8)
                read.append(output.getvalue().count("\n"))
                return self_read
        self.assertTrue(answer_lines(Pipe(b"abc\n" * 6), output, 5, 4, lambda lines: lines))
        self.assertEqual(read, [0, 2, 4, 6])
        self.assertEqual(output.getvalue(), "abc\n" * 6)

    def test_errors_stand_in_their_place(self):
        output = io.StringIO()
        good = answer_lines(io.BytesIO(b"a\nlonger\nb\n"), output, 5, 2,
                            lambda lines: [ValueError("no b") if line == "b" else line for line in lines])
        self.assertEqual((good, output.getvalue()),
                         (False, "a\nerror: a line of more than 5 characters\nerror: no b\n"))


if __name__ == "__main__":
    unittest.main()
