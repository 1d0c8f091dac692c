"""Measure the speed of ganscale on this machine: `python -m benchmarks.speed [COMMAND] [section.key=value ...]`.

Exit codes: 0 done, 1 a measured process failed, 2 invalid request.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from benchmarks.speed.parsers import COMMANDS, parse
from ganscale.config import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process. The default command is `throughput`.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and words[0] in COMMANDS else "throughput"
    options = parse(name, words)
    command = import_module(f"benchmarks.speed.{name}")
    try:
        return command.main(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"measuring failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
