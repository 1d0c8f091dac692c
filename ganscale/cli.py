"""Printing for commands whose reader may leave before the end, as `head` does."""

import os
import sys


def show(text: str) -> None:
    """Print `text`; if nobody reads any more, print nothing from now on and say no word of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What Python still holds back must go somewhere at its end, or it would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
