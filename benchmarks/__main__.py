import argparse
import importlib
import sys
from pathlib import Path

NAMES = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "__main__", "measure")
)

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, add_help=len(sys.argv) < 3)
parser.add_argument("name", choices=[*NAMES, "gpu"], help="what to measure")
chosen, sys.argv[1:] = parser.parse_known_args()
if sys.argv[1:] and chosen.name != "gpu":
    parser.error(f"{chosen.name} takes no options, and got {' '.join(sys.argv[1:])}")
importlib.import_module("benchmarks.gpu.run" if chosen.name == "gpu" else f"benchmarks.{chosen.name}").main()
