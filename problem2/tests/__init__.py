"""Tests run on one thread: their models are small, and the suites of both folders run side by side.

From the root `python -m unittest problem1.tests.test_data` works as well: the folder is put on the
path.
"""

import os
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for what tests start
HOME = str(Path(__file__).resolve().parent.parent)
if HOME not in sys.path:
    sys.path.insert(0, HOME)
