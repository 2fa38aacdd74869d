"""Files: replaced whole or not at all, locked, checkpoints that run no code, digests."""

import errno
import hashlib
import json
import os
import threading
from unittest import mock

from support import cli, files

import torch

from tests.helpers import TemporaryFolder


class Write(TemporaryFolder):
    def write(self, content):
        files.write_files({self.folder / name: content for name in ("a", "in/b", "c")})

    def test_several_files_change_all_or_not_at_all(self):
        self.write(b"old")
        before = self.contents()
        real = {name: getattr(os, name) for name in ("fsync", "replace")}
        for name, good_calls, number in [
            ("fsync", 0, errno.ENOSPC),
            ("fsync", 2, errno.ENOSPC),
            ("replace", 0, errno.EROFS),
        ]:
            calls = [real[name]] * good_calls

            def fails(*arguments):
                if not calls:
                    raise OSError(number, os.strerror(number))
                return calls.pop()(*arguments)

            with self.subTest(name, good_calls=good_calls):
                with mock.patch.object(files.os, name, fails), self.assertRaises(OSError) as raised:
                    self.write(b"new")
                self.assertEqual(raised.exception.errno, number)
                self.assertFalse(raised.exception.filename.endswith(".tmp"))
                self.assertEqual(self.contents(), before)
        self.write(b"new")
        self.assertEqual(self.contents(), dict.fromkeys(before, b"new"))

    def test_what_a_killed_run_left_half_written_is_cleared_away(self):
        for name in (".a.123.tmp", ".a.pth.123.tmp", ".other.123.tmp"):
            (self.folder / name).write_text("half")
        self.write(b"new")
        hidden = {path.name for path in self.folder.glob(".*")}
        self.assertEqual(hidden, {".a.pth.123.tmp", ".other.123.tmp"})

    def test_floats_have_six_digits_and_no_record_holds_nan(self):
        value = {"a": [1 / 3, 2e-9 / 3, (True, None, 10**20)], "b": {"c": 1234567.0}}
        files.write_json(self.folder / "x.json", value)
        short = {"a": [0.333333, 6.66667e-10, [True, None, 10**20]], "b": {"c": 1.23457e6}}
        self.assertEqual(json.loads((self.folder / "x.json").read_text()), short)
        for bad in (float("nan"), float("inf")):
            with self.assertRaises(ValueError):
                files.write_json(self.folder / "x.json", {"a": [bad]})

    def test_json_that_is_missing_or_damaged_is_named(self):
        path = self.folder / "x.json"
        with self.assertRaisesRegex(cli.UserError, "x.json does not exist: make it"):
            files.read_json(path, "make it")
        for content in (b"{", b"", b"\xff", b"[" * 100_000):
            path.write_bytes(content)
            with self.assertRaisesRegex(cli.UserError, "not whole JSON .*: delete it and make it"):
                files.read_json(path, "make it")


class Locks(TemporaryFolder):
    def test_a_second_run_on_a_folder_is_told_so(self):
        with files.locked(self.folder):
            with self.assertRaisesRegex(cli.UserError, "another run"), files.locked(self.folder):
                pass

    def test_a_patient_run_waits_for_the_other_one(self):
        order = []

        def second():
            with files.locked(self.folder, patient=True):
                order.append("second")

        thread = threading.Thread(target=second)
        with files.locked(self.folder):
            thread.start()
            thread.join(0.1)
            order.append("first")
        thread.join(10)
        self.assertEqual(order, ["first", "second"])


class Checkpoints(TemporaryFolder):
    def setUp(self):
        super().setUp()
        self.path = self.folder / "m.pth"

    def read(self, device="cpu"):
        return files.read_checkpoint(self.path, device, "train again")

    def test_tensors_come_back(self):
        state = {"a": torch.arange(3.0), "b": torch.tensor([1, 2], dtype=torch.uint8)}
        self.path.write_bytes(files.checkpoint_bytes(state))
        with mock.patch.object(files.torch, "load", wraps=torch.load) as load:
            found = self.read(torch.device("cpu"))
        self.assertTrue(all(torch.equal(found[name], state[name]) for name in state))
        self.assertEqual(load.call_args.kwargs["map_location"], torch.device("cpu"))

    def test_what_is_no_checkpoint_is_one_line(self):
        with self.assertRaisesRegex(cli.UserError, "m.pth is no checkpoint file: train again"):
            self.read()
        good = files.checkpoint_bytes({"a": torch.arange(1000.0)})
        for content in (b"", b"text", good[:100], good[:-20], b"PK\3\4" + bytes(100)):
            self.path.write_bytes(content)
            with self.assertRaisesRegex(cli.UserError, "m.pth is damaged .*: train again"):
                self.read()
        for value in (None, 3, [torch.zeros(1)], {"a": {"b": torch.zeros(1)}}, {"a": "text"}):
            torch.save(value, self.path)
            with self.assertRaisesRegex(cli.UserError, "not a dict of tensors.*: train again"):
                self.read()

    def test_code_in_a_file_is_not_run(self):
        folder = self.folder

        class Code:
            def __reduce__(self):
                return os.mkdir, (str(folder / "ran"),)

        for new_form in (True, False):  # the older form is refused unread
            torch.save({"a": Code()}, self.path, _use_new_zipfile_serialization=new_form)
            with mock.patch.object(files.torch, "load", wraps=torch.load) as load:
                with self.assertRaisesRegex(cli.UserError, "damaged or holds more than tensors"):
                    self.read()
            self.assertEqual(load.called, new_form)
            self.assertFalse((self.folder / "ran").exists())


class Weights(torch.nn.Module):
    """A model with given weights."""

    def __init__(self, note=0, **values):
        super().__init__()
        self.note = note
        for name, value in values.items():
            self.register_buffer(name, value)

    def get_extra_state(self):
        return torch.tensor(self.note)


class Digests(TemporaryFolder):
    def test_a_file_s_is_that_of_its_bytes(self):
        (self.folder / "x").write_bytes(b"abc")
        self.assertEqual(files.file_digest(self.folder / "x"), hashlib.sha256(b"abc").hexdigest())

    def test_weights_have_another_if_a_value_a_name_a_shape_or_a_type_differs(self):
        a, b = torch.arange(6.0).view(2, 3), torch.tensor(1.0)
        digest = files.weights_digest(Weights(a=a, b=b))
        same = Weights(1, a=a.T.contiguous().T, b=b.clone())
        self.assertEqual(files.weights_digest(same), digest)
        others = [Weights(a=a + 1e-6, b=b), Weights(a=a.flatten(), b=b)]
        others += [Weights(a=a, b=b.double()), Weights(c=a, b=b)]
        self.assertEqual(len({digest, *map(files.weights_digest, others)}), 5)
        half = Weights(a=torch.zeros(2, dtype=torch.bfloat16))
        self.assertEqual(len(files.weights_digest(half)), 64)

    def test_records_of_other_weights_are_found(self):
        digests = {"mine": "1", "other": "2", "in/other": "2", "of another model/own": "2"}
        for name, digest in (digests | {"several": {"one": "1", "two": "2"}}).items():
            files.write_json(self.folder / f"{name}.json", {files.WEIGHTS_DIGEST: digest})
        files.write_json(self.folder / "none.json", [1])
        (self.folder / "broken.json").write_text("{")
        (self.folder / "of another model" / "best_model.pth").touch()

        def stale(*arguments):
            return [path.stem for path in files.stale_records(self.folder, *arguments)]

        self.assertEqual(stale("1"), ["other", "other"])
        self.assertEqual(stale("1", "one"), ["other", "other"])
        self.assertIn("several", stale("1", "two"))
