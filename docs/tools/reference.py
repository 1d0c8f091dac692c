"""The pages of docs/ that are made from the code: `python -m docs.tools.reference`, as part of `make docs`."""

import os
from importlib import import_module
from pathlib import Path

from docs.tools.architecture import drawing
from ganscale.cli import COMMANDS
from ganscale.tracking.families import FAMILIES, GROUPS

DOCS = Path(__file__).resolve().parents[1]
MADE = "Made by `make docs`; do not edit."


COMMAND_LINE = f"""# Command line

{MADE}

`ganscale COMMAND` and `python -m ganscale.COMMAND` are the same. `section.key=value` is any setting of
[config](../config.md), `sweep.key=value` one of a [sweep](../sweeps.md). How commands end: [exit codes](exit_codes.md).

| command | |
|---|---|"""
COLUMNS = f"""# Columns of metrics.jsonl

{MADE}

A row per `log.every` images, at evaluations and at the end; `images` is the number of real examples shown so far.
Numbers are of all workers; what is not finite is `null`. Scores are columns by the names of their
[metrics](../metrics.md#the-metrics), with `<metric>_floor` and, where there is one, `<metric>_error`.
"""
OTHER_COLUMNS = """
Further columns are penalties (`penalty_r1` and so on), `rollbacks`, what `evaluation_arrived` and
`evaluations_skipped` mean for [`eval.mode=async`](../metrics.md#beside-training), and what
[detectors](../health.md#the-verdicts) compare.
"""


def command_line() -> str:
    """The page of all commands: what each does, its options, and what its help shows beneath them."""
    lines = [COMMAND_LINE, *(f"| [{name}](#{name}) | {text} |" for name, (_, text) in COMMANDS.items())]
    lines.append("| completion | print the shell's completion: `ganscale completion bash` (or `zsh`, `fish`) |")
    for name, (module, _) in COMMANDS.items():
        parser = import_module(module).make_parser()
        parser.prog = f"ganscale {name}"
        lines += ["", f"## {name}", "", "```text", parser.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def columns() -> str:
    """The page of the columns of metrics.jsonl, by the charts that show them."""
    lines = [COLUMNS]
    for group in GROUPS:
        found = [family for family in FAMILIES if family.group == group]
        if found:
            lines += [f"## {group}", "", "| column | chart | unit | |", "|---|---|---|---|"]
            for family in found:
                for name, label in family.members.items():
                    title = f"{family.title}: {label}" if label else family.title
                    lines.append(f"| `{name}` | {title} | {family.unit} | {family.note} |")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n" + OTHER_COLUMNS


def pages() -> dict[str, str]:
    """All pages, by their path below docs/."""
    os.environ["COLUMNS"] = "100"  # argparse wraps help at the terminal's width
    return {
        "reference/cli.md": command_line(),
        "reference/columns.md": columns(),
        "images/architecture.svg": drawing(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        (DOCS / path).write_text(text, encoding="utf-8")
