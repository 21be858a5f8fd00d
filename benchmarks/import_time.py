"""Compare the time of `import c2lst` with that of `import anndata`, each in a fresh interpreter.

Pairs are measured one after the other, so that a busy machine slows both. Exits with 1 if the median ratio is above
0.5: importing c2lst loads neither torch nor anndata, and this keeps it so.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

LIMIT = 0.5
# measured inside the interpreter: its own start is the same for both and would hide the difference
CODE = "import time; start = time.perf_counter(); import {0}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    done = subprocess.run([sys.executable, "-c", CODE.format(module)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="how many pairs to measure (default 7)")
    pairs = parser.parse_args().pairs
    for module in ("anndata", "c2lst"):  # fill the disk cache and write the bytecode
        seconds(module)
    ratios = []
    for i in range(pairs):
        ours, theirs = seconds("c2lst"), seconds("anndata")
        ratios.append(ours / theirs)
        print(f"pair {i + 1}: c2lst {ours:.3f} s, anndata {theirs:.3f} s, ratio {ratios[-1]:.2f}")
    ratio = statistics.median(ratios)
    print(f"median ratio {ratio:.2f} (at most {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
