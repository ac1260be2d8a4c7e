"""Run `python benchmarks/gpu_check`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # instead of this folder

    from gpu_check.command_line import main

    sys.exit(main())
