"""Nothing is lost or half-written: full disks, two runs at once, killed runs; and a sample of the cases of fuzz.py."""

import errno
import os
import signal
import subprocess
import sys
import unittest
from pathlib import Path
from unittest import mock

import torch

import generate_data
import train
from learning import checkpoint
from learning.checkpoint import load_model
from model import Seq2SeqTransformer
from support import files
from support.cli import UserError
from support.files import locked, replacing
from tests import fuzz
from tests.helpers import RESULTS, TemporaryFolder, command, save_with
from tests.test_training import SMALL

HOLDER = ("import fcntl, sys, time; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX); "
          "print('held', flush=True); time.sleep(60)")
GENERATE = ("--num-digits", 1, "--train-size", 41, "--val-size", 20, "--test-size", 20, "--output-dir")


class Disk(TemporaryFolder):
    def run_train(self, epochs):
        return command(train.main, "--data-dir", self.small_data(), "--output-dir", self.folder / "run", "--epochs",
                       epochs, *SMALL)

    def contents(self):
        return {path: path.read_bytes() for path in (self.folder / "run").rglob("*") if path.is_file()}

    def test_a_full_or_unwritable_disk_is_one_line_and_leaves_what_was_there(self):
        self.assertEqual(self.run_train(1)[0], 0)
        before = self.contents()
        for name, number in [("fsync", errno.ENOSPC), ("replace", errno.EROFS)]:
            with mock.patch.object(files.os, name, side_effect=OSError(number, os.strerror(number))):
                self.assert_one_line(command(train.main, "--data-dir", self.folder / "data", "--output-dir",
                                             self.folder / "run", "--epochs", 2, *SMALL),
                                     ".pth", os.strerror(number))
            self.assertEqual(self.contents(), before)
        with mock.patch.object(files, "open", create=True,
                               side_effect=PermissionError(errno.EACCES, "Permission denied", "run/.lock")):
            self.assert_one_line(command(train.main, "--data-dir", self.folder / "data", "--output-dir",
                                         self.folder / "run", "--epochs", 2, *SMALL),
                                 "run/.lock: Permission denied")

    @unittest.skipUnless(os.name == "posix", "limits of POSIX")
    def test_no_room_for_a_checkpoint(self):
        import resource
        path = self.folder / "file"
        files.write_checkpoint(path, {"x": torch.zeros(10)})
        before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with self.assertRaises(OSError) as raised:
                files.write_checkpoint(path, {"x": torch.zeros(100_000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertEqual((raised.exception.errno, raised.exception.filename), (errno.EFBIG, str(path)))
        self.assertEqual([(p.name, p.read_bytes()) for p in self.folder.iterdir()], [("file", before)])

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full here")
    def test_output_that_cannot_be_written_is_one_line(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, RESULTS.parent / "generate_data.py", *map(str, GENERATE),
                                   self.folder / "d"], stdout=full,
                                  stderr=subprocess.PIPE, text=True)
        self.assertEqual((done.returncode, done.stderr), (2, f"error: output: {os.strerror(errno.ENOSPC)}\n"))

    def test_what_a_killed_run_left_half_written_is_cleared_away(self):
        for name in (".file.123.tmp", ".file.pth.123.tmp", ".other.123.tmp"):
            (self.folder / name).write_text("half")
        with replacing(self.folder / "file") as file:
            file.write(b"new")
        self.assertEqual({path.name for path in self.folder.iterdir()}, {"file", ".file.pth.123.tmp", ".other.123.tmp"})


class TwoRuns(TemporaryFolder):
    def test_a_second_run_on_a_folder_says_so_and_stops(self):
        data = self.small_data()
        (self.folder / "run").mkdir()
        with locked(self.folder / "run"), locked(data):
            self.assert_one_line(command(train.main, "--data-dir", data, "--output-dir", self.folder / "run",
                                         "--epochs", 1, *SMALL), "another run")
            self.assert_one_line(command(generate_data.main, *GENERATE, data), "another run")
        self.assertEqual([path.name for path in (self.folder / "run").iterdir()], [".lock"])
        self.assertEqual(command(generate_data.main, *GENERATE, data)[0], 0)

    @unittest.skipUnless(os.name == "posix", "locks of POSIX")
    def test_the_lock_of_a_killed_run_is_gone(self):
        with subprocess.Popen([sys.executable, "-c", HOLDER, self.folder / ".lock"], stdout=subprocess.PIPE) as holder:
            holder.stdout.readline()
            with self.assertRaisesRegex(UserError, "another run"), locked(self.folder):
                pass
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            with locked(self.folder):
                pass


class Checkpoint(TemporaryFolder):
    def test_weights_larger_than_their_file_are_refused_before_they_are_made(self):
        model, _ = load_model(RESULTS / "best_model.pth")
        weights = {name: torch.zeros(1).expand(value.shape) for name, value in model.named_parameters()}
        files.write_checkpoint(self.folder / "m.pth", weights | {"_extra_state": model.get_extra_state()})
        with self.assertRaisesRegex(UserError, "larger than the file"):
            load_model(self.folder / "m.pth")

    def test_sizes_that_the_weights_do_not_have_are_refused_before_a_model_is_made(self):
        state = torch.load(RESULTS / "best_model.pth", weights_only=True)
        extra = state["_extra_state"]
        for size in ("d_model", "d_ff", "num_decoder_layers"):
            config = extra["config"] | {size: 2 * extra["config"][size]}
            files.write_checkpoint(self.folder / "m.pth", state | {"_extra_state": extra | {"config": config}})
            with mock.patch.object(checkpoint, "Seq2SeqTransformer") as made, \
                    self.assertRaisesRegex(UserError, "fewer weights than a model of these sizes has"):
                load_model(self.folder / "m.pth")
            made.assert_not_called()

    def test_torch_s_older_forms_are_refused_unread(self):
        torch.save({"config": {}}, self.folder / "m.pth", _use_new_zipfile_serialization=False)
        with mock.patch.object(files.torch, "load") as load, self.assertRaisesRegex(UserError, "damaged"):
            load_model(self.folder / "m.pth")
        load.assert_not_called()

    def test_weights_are_put_on_the_device_asked_for(self):
        save_with(self.folder / "m.pth", Seq2SeqTransformer(13, 8, 1, 1, 1, 8))
        with mock.patch.object(files.torch, "load", wraps=torch.load) as load:
            load_model(self.folder / "m.pth", torch.device("cpu"))
        self.assertEqual(load.call_args.kwargs["map_location"], torch.device("cpu"))


@unittest.skipUnless(hasattr(signal, "setitimer"), "needs the timers of POSIX")
class Fuzz(TemporaryFolder):
    def test_a_sample_of_the_cases(self):
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        cases = fuzz.Fuzz(self.folder)
        for kind in cases.kinds:
            with self.subTest(kind=kind):
                self.assertEqual(cases.run(kind, seed=1, cases=60), [])
