"""What README.md and docs/ say is true: commands load, links lead somewhere, code works, the reference is complete."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from docs.tools import reference as made
from ganscale.cli import COMMANDS as TOOLS
from ganscale.cli import split_words
from ganscale.config import load, reference
from ganscale.train import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """A page's code blocks in a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[str]:
    """The commands of a page; one that a backslash continues is one line."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def calls(line: str) -> list[tuple[str, list[str]]]:
    """Name and arguments of the commands in a line of a shell: `python -m ganscale.NAME` or `ganscale NAME`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[tuple[str, list[str]]] = []
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            place = next((i for i, each in enumerate(words) if each.split(".")[0] == "ganscale"), len(words))
            rest = [*words[place].split("."), *words[place + 1 :]][1:] if place < len(words) else []
            if rest and rest[0] in TOOLS:
                found.append((rest[0], rest[1:]))
            words = []
        else:
            words.append(word)
    return found


COMMANDS = lines(README)
TRAININGS = [words for line in COMMANDS for name, words in calls(line) if name == "train"]
CALLS = [(name, words) for page in PAGES for line in lines(page) for name, words in calls(line)]


def call_id(value: object) -> str:
    return value if isinstance(value, str) else " ".join(value)[:60]  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == reference.markdown(), "run `make docs`"


@pytest.mark.parametrize(("path", "text"), made.pages().items(), ids=made.pages())
def test_pages_made_from_the_code_are_up_to_date(path: str, text: str) -> None:
    """Apart from line breaks, at which versions of argparse differ."""
    assert (ROOT / "docs" / path).read_text(encoding="utf-8").split() == text.split(), "run `make docs`"


def test_there_are_commands() -> None:
    assert len(TRAININGS) >= 9


@pytest.mark.parametrize("words", TRAININGS, ids=call_id)
def test_a_training_command_loads(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    if "--help" in words:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
    else:
        assert main([*words, "--dry-run"]) == 0
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "words"), CALLS, ids=call_id)
def test_a_command_is_understood(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser takes it; a run's config loads unless it is one that a page makes up."""
    monkeypatch.chdir(ROOT)
    if "--help" in words:
        return
    options = importlib.import_module(TOOLS[name][0]).make_parser().parse_intermixed_args(words)
    assert vars(options)
    if name == "train":
        file, overrides = split_words(options.words)
        if file is None or not file.startswith(("runs/", "s3://", "/opt/ganscale/")):
            load(file, overrides)


def test_every_tool_is_shown() -> None:
    shown = [name for name, _ in CALLS]
    assert all(shown.count(name) >= 4 for name in ("train", "evaluate", "sample", "tune", "report"))
    assert set(shown) == set(TOOLS)


def test_the_readmes_commands_are_known() -> None:
    """A new kind of command needs a test of its own."""
    first = {re.split(r"-m ganscale|\s", line)[0] for line in COMMANDS}
    assert first <= {"make", "python", "ganscale", "torchrun", "export", "ray", "wandb", "helm"}
    targets = {line.split()[1] for page in PAGES for line in lines(page) if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_readmes_helm_command_is_the_pages() -> None:
    """tests/k8s/test_page.py renders those of docs/kubernetes.md."""
    (line,) = (line for line in COMMANDS if line.startswith("helm"))
    assert line.partition("  #")[0] in lines(ROOT / "docs" / "kubernetes.md")


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_configs_of_the_makefile_are_there() -> None:
    names = re.findall(r"configs/\S+\.yaml", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert "configs/mnist_demo.yaml" in names
    assert all((ROOT / name).exists() for name in names)


def anchors(page: Path) -> set[str]:
    """The names that GitHub and the site give to a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head) for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        if file.name != "notebook.md":  # the site makes it of docs/notebooks/
            assert file.exists(), target
            assert not anchor or file.suffix != ".md" or anchor in anchors(file), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_is_formatted(page: Path) -> None:
    for code in blocks(page, "python"):
        command = [sys.executable, "-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), "-"]
        assert subprocess.run(command, input=code, text=True, capture_output=True).returncode == 0
