"""What the commands share: words, exit codes, errors; and the console script `ganscale COMMAND`, which calls them."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from ganscale.config.errors import ConfigError, ExecutionError, did_you_mean
from ganscale.tracking.console import setup_logging, show

DONE, FAILED, REFUSED, UNHEALTHY, STOPPED, INTERRUPTED = 0, 1, 2, 3, 75, 130
"""Exit codes: done; failed; invalid setting or argument; stopped by a health verdict; stopped on request with the state
saved (EX_TEMPFAIL of sysexits.h: try again later); interrupted from the keyboard."""

COMMANDS = {
    "prepare": ("ganscale.prepare.__main__", "check pictures once and convert them to shards with an index"),
    "train": ("ganscale.train", "train a GAN; the same command again resumes the run"),
    "tune": ("ganscale.tune", "search for settings that train well on every seed"),
    "evaluate": ("ganscale.evaluate", "compute the metrics of trained generators"),
    "sample": ("ganscale.sample", "make images with a trained generator"),
    "report": ("ganscale.report.__main__", "write an HTML page about runs or sweeps"),
    "copy": ("ganscale.copy", "copy a run from a folder to a bucket or back"),
    "dashboard": ("ganscale.dashboard", "create or update W&B workspaces and reports"),
    "doctor": ("ganscale.doctor", "check a cluster before a long run"),
}
"""Command to its module and what it does."""
SHELLS = ("bash", "zsh", "fish")


class Parser(argparse.ArgumentParser):
    """The parser of a command, whose help survives a closed pipe.

    Args:
        name: Name of the command.
        description: What the command does.
        epilog: What the help shows last.
        settings: Returns what the help shows after that.
        keys: Returns the keys of settings that the command takes, for the shell's completion.
    """

    def __init__(
        self,
        name: str,
        description: str,
        *,
        epilog: str = "",
        settings: Callable[[], str] = str,
        keys: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        prog = f"ganscale {name}" if Path(sys.argv[0]).name == "ganscale" else f"python -m ganscale.{name}"
        super().__init__(prog=prog, description=description, epilog=epilog)
        self._settings, self.setting_keys = settings, keys

    def print_help(self, file: object = None) -> None:
        """Print the help to stdout."""
        show("\n".join(filter(None, (self.format_help(), self._settings()))).rstrip("\n"))


def run_keys() -> list[str]:
    """Dotted keys of a run's settings."""
    from ganscale.config.reference import rows

    return sorted({re.sub(r"\[\w+\]", "", key) for key, *_ in rows()})


class Main(Protocol):
    """A command: takes its arguments, by default those of the process, and returns the exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command."""
        ...


def command(
    make_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    *,
    failed: str,
    interrupted: str = "interrupted",
) -> Main:
    """Return the `main` of a command, which parses, logs to the terminal and turns errors into exit codes.

    Args:
        make_parser: Returns the command's parser.
        run: Does what the parsed options require, and returns the exit code.
        failed: Printed before the message of an `ExecutionError` or `OSError`.
        interrupted: Printed after Ctrl-C.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        """Run the command and return its exit code; by default with the arguments of the process."""
        options = make_parser().parse_intermixed_args(arguments)
        try:
            with setup_logging():
                return run(options)
        except ConfigError as error:
            return fail(f"error: {error}", REFUSED)
        except (ExecutionError, OSError) as error:
            return fail(f"{failed}: {error}", FAILED)
        except KeyboardInterrupt:
            return fail(interrupted, INTERRUPTED)

    return main


def fail(text: str, code: int) -> int:
    """Print a message to stderr and return the exit code.

    Args:
        text: The message.
        code: The exit code.
    """
    print(f"ganscale: {text}", file=sys.stderr, flush=True)
    return code


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split words of the command line into the config file, if any, and the overrides.

    Args:
        words: File names and `section.key=value`, in any order.

    Raises:
        ConfigError: There are several files, or the shell has split an override at its spaces.
    """
    for word, following in pairwise([*words, ""]):
        key, sign, value = word.partition("=")
        is_file = "=" in following or Path(following).suffix in (".yaml", ".yml") or Path(following).exists()
        is_open = sum(map(value.count, "{[")) > sum(map(value.count, "}]"))
        if following and (is_open or (not sign and following[0] == "=") or (sign and not value and not is_file)):
            remedy = f"write {key}=VALUE as one word, in quotes if it has spaces"
            raise ConfigError("is split at its spaces", key=key, value=value or following, remedy=remedy)
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        remedy = "name one file; write settings as section.key=value"
        raise ConfigError(f"at most one file, and {files[0]} is one", key="argument", value=files[1], remedy=remedy)
    return (files[0] if files else None), [word for word in words if "=" in word]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ganscale COMMAND ...` and return its exit code.

    Args:
        arguments: Arguments of the command line; by default those of the process.
    """
    name, *others = [*(sys.argv[1:] if arguments is None else arguments), ""]
    others = others[:-1]
    if name in COMMANDS:
        return import_module(COMMANDS[name][0]).main(others)
    if name == "completion" and len(others) == 1 and others[0] in SHELLS:
        show(completion(others[0]))
    elif name == "--version":
        from ganscale import __version__

        show(f"ganscale {__version__}")
    elif name in ("", "-h", "--help"):
        rows = [*((name, text) for name, (_, text) in COMMANDS.items()), (f"completion {'|'.join(SHELLS)}", "print it")]
        show("usage: ganscale [--help] [--version] COMMAND ...\n\n" + "\n".join(f"  {n:26}{text}" for n, text in rows))
    elif name == "completion":
        return fail(f"error: completion takes one of {', '.join(SHELLS)}", REFUSED)
    else:
        return fail(f"error: unknown command {name}\n  remedy: {did_you_mean(name, COMMANDS)}", REFUSED)
    return DONE


def completion(shell: str) -> str:
    """The shell's script that completes commands, their options and the keys of their settings.

    Args:
        shell: One of `SHELLS`.
    """
    words = {name: " ".join(_completions(name)) for name in COMMANDS}
    names = " ".join([*COMMANDS, "completion"])
    if shell == "fish":
        lines = [f"complete -c ganscale -n __fish_use_subcommand -f -a '{names}'"]
        seen = "complete -c ganscale -n '__fish_seen_subcommand_from"
        return "\n".join([*lines, *(f"{seen} {name}' -a '{text}'" for name, text in words.items())])
    cases = "\n".join(f"    {name}) words='{text}' ;;" for name, text in words.items())
    script = f"""_ganscale() {{
  local words='{names}'
  [ "$COMP_CWORD" -gt 1 ] && case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
  case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2> /dev/null ;; esac
}}
complete -o default -F _ganscale ganscale"""
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


def _completions(name: str) -> Iterator[str]:
    parser: Parser = import_module(COMMANDS[name][0]).make_parser()
    for action in parser._actions:  # noqa: SLF001 (argparse has no public list of its options)
        yield from (option for option in action.option_strings if option.startswith("--"))
    yield from (f"{key}=" for key in parser.setting_keys())
