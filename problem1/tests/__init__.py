"""Tests run on one thread: their models are too small for more, and so the suites of both problems can run side by
side."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the processes that tests start
