"""Printing for commands whose reader may leave before the end, as `head` does."""

import logging
import os
import sys


def show(text: str) -> None:
    """Print `text`; if nobody reads any more, print nothing from now on and say no word of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What Python still holds back must go somewhere at its end, or it would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Stdout(logging.Handler):
    """Prints log lines."""

    def emit(self, record: logging.LogRecord) -> None:
        show(self.format(record))


def log_to_stdout() -> None:
    """Print the package's log lines from INFO on."""
    logger = logging.getLogger("ganscale")
    logger.handlers = [_Stdout()]
    logger.setLevel(logging.INFO)
