"""What README.md and docs/ say is true: commands load, links lead somewhere, code works, the reference is complete."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ganscale.config import reference
from ganscale.losses import adversarial
from ganscale.train import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language, without the indentation that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
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


def test_the_commands_are_known() -> None:
    """A new kind of command needs a test of its own."""
    first = {line.partition("-m ganscale")[0].split()[0] for line in COMMANDS}
    assert first <= {"make", "python", "torchrun", "export", "ray", "wandb"}
    targets = {line.split()[1] for line in COMMANDS if line.startswith("make")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_config_is_in_the_readme() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"(configs/{path.name})" in README


def test_the_new_loss_works() -> None:
    (code,) = blocks("python")
    names = {**vars(adversarial), "LOSSES": {}}
    exec(code, names)
    loss = names["LOSSES"]["quadratic"]
    logits = torch.tensor([0.0, 2.0])
    torch.testing.assert_close(loss.discriminator(logits, logits, adversarial.HARD), torch.tensor([2.0, 10.0]))
    torch.testing.assert_close(loss.generator(logits, None), torch.tensor([0.0, 4.0]))


def test_code_is_formatted() -> None:
    for code in blocks("python"):
        command = [sys.executable, "-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), "-"]
        assert subprocess.run(command, input=code, text=True, capture_output=True).returncode == 0
