"""What every command needs: command lines, files, plots, studies, a page. Same in both folders.

It is imported before torch, and says how long torch's threads spin at the end of a product before
they sleep. Without this a thread spins for milliseconds, and on a machine that does other work as
well that is most of the time. A user's own setting holds.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # some tens of microseconds
