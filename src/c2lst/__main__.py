"""The command `c2lst`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run what it asks for."""
    from c2lst import __version__

    parser = argparse.ArgumentParser(prog="c2lst", description="A few sequenced spots and much H&E: c2lst.")
    parser.add_argument("--version", action="version", version=f"c2lst {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="run the main job end to end and write a report", description="Run the main job end to end."
    )
    demo.add_argument("--data", choices=["toy", "her2st"], default="toy", help="simulated or real tissue")
    demo.add_argument("--path", type=Path, help="directory with the her2st files; without it they are downloaded")
    demo.add_argument("--out", type=Path, default=Path("report.html"), help="the report (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument(
        "--draws",
        type=int,
        default=3,
        help="how many draws of spots; one gives no share of the gap (default: %(default)s)",
    )
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if args.path is not None and args.data != "her2st":
        parser.error("--path belongs to --data her2st")
    if args.draws < 1:
        parser.error(f"--draws must be at least 1, not {args.draws}")
    folder = args.out.resolve().parent
    if not folder.is_dir():
        parser.error(f"--out: there is no directory {folder}")
    if args.out.is_dir():
        parser.error(f"--out: {args.out} is a directory; name a file")
    if not os.access(args.out if args.out.exists() else folder, os.W_OK):
        parser.error(f"--out: {args.out} cannot be written")
    if args.path is not None and not args.path.is_dir():
        parser.error(f"--path: there is no directory {args.path}")
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, not {args.seed}")

    import logging

    from c2lst import settings
    from c2lst._demo import run

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    if args.quiet:
        settings.progress = False
    path = run(args.data, path=args.path, out=args.out, seed=args.seed, draws=args.draws)
    print(f"Report: {path.resolve()}")


if __name__ == "__main__":
    main()
