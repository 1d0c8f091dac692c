"""What README.md and docs/ say is true: commands load, links lead somewhere, code works, the reference is complete."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ganscale.config import reference
from ganscale.train import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """A page's code blocks in a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
EVERYWHERE = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
TRAININGS = [line for line in COMMANDS if "-m ganscale.train" in line]


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == reference.markdown(), "run `make docs`"


def test_there_are_commands() -> None:
    assert len(TRAININGS) >= 9


@pytest.mark.parametrize("line", TRAININGS)
def test_a_training_command_loads(line: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(line, comments=True)
    arguments = arguments[arguments.index("ganscale.train") + 1 :]
    if "--help" in arguments:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
    else:
        assert main([*arguments, "--dry-run"]) == 0
    assert "train" in capsys.readouterr().out


TOOLS = {
    name: [line for line in EVERYWHERE if f"-m ganscale.{name} " in line] for name in ("evaluate", "sample", "tune")
}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name in TOOLS for line in TOOLS[name]])
def test_a_tools_command_is_understood(name: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    module = importlib.import_module(f"ganscale.{name}")
    options = module.make_parser().parse_intermixed_args(words[words.index(f"ganscale.{name}") + 1 :])
    assert vars(options)


def test_every_tool_is_shown() -> None:
    assert all(len(lines) >= 4 for lines in TOOLS.values())


def test_the_commands_are_known() -> None:
    """A new kind of command needs a test of its own."""
    first = {line.partition("-m ganscale")[0].split()[0] for line in COMMANDS}
    assert first <= {"make", "python", "torchrun", "export", "ray", "wandb"}
    targets = {line.split()[1] for line in COMMANDS if line.startswith("make")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_configs_of_the_makefile_are_there() -> None:
    names = re.findall(r"configs/\S+\.yaml", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert "configs/mnist_demo.yaml" in names
    assert all((ROOT / name).exists() for name in names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_formatted(page: Path) -> None:
    for code in blocks(page, "python"):
        command = [sys.executable, "-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), "-"]
        assert subprocess.run(command, input=code, text=True, capture_output=True).returncode == 0
