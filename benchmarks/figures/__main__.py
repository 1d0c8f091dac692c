"""The figures of README.md: `python -m benchmarks.figures` draws them, `--fresh [NAME ...]` measures them first."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import draw, measure

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
MEASURED = {"worlds": measure.worlds, "faults": measure.faults}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all figures; exit code 0.

    Args:
        arguments: of the command line; None for the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description="Draw the figures of README.md.")
    parser.add_argument("--fresh", nargs="*", choices=MEASURED, help="measure these again, or without a name all")
    parser.add_argument("--out", type=Path, default=DOCS / "images", help="folder of the pictures")
    options = parser.parse_args(arguments)
    if options.fresh is not None:
        for name in options.fresh or MEASURED:
            text = json.dumps(MEASURED[name](), indent=None) + "\n"
            (HERE / f"{name}.json").write_text(text, encoding="utf-8")
    for name, function in (("worlds", draw.worlds), ("faults", draw.faults)):
        found = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        function(found, options.out / f"figure_{name}.png")
    draw.success((DOCS / "stability.md").read_text(encoding="utf-8"), options.out / "figure_success.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
