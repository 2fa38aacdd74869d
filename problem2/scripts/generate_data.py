"""The handout's command `python scripts/generate_data.py`: forwards to ../generate_data.py."""

import runpy
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(folder))
runpy.run_path(str(folder / "generate_data.py"), run_name="__main__")
