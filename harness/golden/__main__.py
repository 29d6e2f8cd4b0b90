"""`python -m harness.golden FILE...`."""

import argparse
import json
import sys

from harness.golden.check import METHODS, check_file


def main(argv: list[str] | None = None) -> int:
    """One JSON line per file; 0 if all agree, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.golden",
        description="Check methods against golden vectors, files METHOD_seedS_budgetB.npz.",
        epilog=f"methods: {', '.join(METHODS)}",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    good = True
    for path in parser.parse_args(argv).files:
        verdict = check_file(path)
        print(json.dumps(verdict, allow_nan=False), flush=True)
        good &= verdict["ok"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
