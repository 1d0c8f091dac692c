"""What all commands share: the console script, exit codes, words, a light start, and readers that leave early."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ganscale
from ganscale import cli
from ganscale.config.errors import ConfigError, ExecutionError
from tests.processes import ROOT

SWEEP = "configs/sweeps/gaussians.yaml"
DRY_RUNS = [["train", "--dry-run"], ["tune", SWEEP, "--dry-run"], ["dashboard", "--dry-run"]]


@pytest.mark.parametrize("command", [*DRY_RUNS, ["train", "--help"], ["--help"]], ids=" ".join)
def test_a_reader_may_leave_early(command: list[str]) -> None:
    code = f"import sys; from ganscale.cli import main; sys.exit(main({command}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    process.stdout.close()  # before it has written anything
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert errors == b""


def test_every_help_and_dry_run_is_light() -> None:
    """None imports what takes seconds; train --dry-run only after it has shown the settings."""
    commands = [*([name, "--help"] for name in cli.COMMANDS), *DRY_RUNS]
    code = (
        "import sys, ganscale.train; from ganscale.cli import main\n"
        "ganscale.train._remarks = lambda config: ['measured here']\n"
        f"for command in {commands}:\n"
        "    try: assert main(command) == 0, command\n"
        "    except SystemExit as stop: assert stop.code == 0, command\n"
        "    heavy = {'torch', 'numpy', 'ray', 'wandb', 'scipy', 'matplotlib', 'PIL', 'rich'} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(
        word in done.stdout
        for word in ("optim.lr_g=", "--truncation PSI", "batch_size: 64\n", "# measured here\n", "0000  ")
    )


def test_the_console_script(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["--version"]) == cli.DONE
    assert capsys.readouterr().out == f"ganscale {ganscale.__version__}\n"
    assert cli.main([]) == cli.main(["-h"]) == cli.DONE
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    assert cli.main(["trian"]) == cli.main(["completion", "csh"]) == cli.REFUSED
    assert "did you mean 'train'" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["/bin/ganscale", "train", "optim.lrg=1"])
    assert cli.main() == cli.REFUSED
    assert capsys.readouterr().err.startswith("ganscale: error: optim.lrg = 1: ")
    with pytest.raises(SystemExit):
        cli.main(["train", "--nothing"])
    assert capsys.readouterr().err.startswith("usage: ganscale train ")


def test_the_console_script_is_installed_by_the_package() -> None:
    assert '[project.scripts]\nganscale = "ganscale.cli:main"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong", key="a.b", value=1, remedy="c"), 2),
        (ExecutionError("failed"), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: argparse.Namespace) -> int:
        raise error

    main = cli.command(lambda: cli.Parser("train", ""), run, failed="it failed")
    assert main([]) == code
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("ganscale: ")
    assert "Traceback" not in written.err


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["optim.lr_g", "=", "1e-4"], "optim.lr_g"),
        (["optim.lr_g=", "1e-4"], "optim.lr_g"),
        (["run.yaml", "optim.lr_g", "=1e-4"], "optim.lr_g"),
        (["optim.lr_g={start:", "1e-4,", "end:", "1e-5}"], "optim.lr_g"),
        (["eval.metrics=[kid,", "frechet]", "run.yaml"], "eval.metrics"),
        (["one.yaml", "two.yaml"], "argument"),
    ],
    ids=" ".join,
)
def test_words_that_the_shell_has_split_are_refused(words: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.split_words(words)
    assert caught.value.key == key
    assert caught.value.remedy


def test_files_and_overrides_may_stand_in_any_order() -> None:
    assert cli.split_words(["a.b=1", "x.yaml", "c.d=", "e.f=[1, 2]"]) == ("x.yaml", ["a.b=1", "c.d=", "e.f=[1, 2]"])
    assert cli.split_words(["wandb.entity=", "x.yaml"]) == ("x.yaml", ["wandb.entity="])
    assert cli.split_words([]) == (None, [])


def _bash(words: list[str]) -> list[str]:
    script = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _ganscale; echo ${{COMPREPLY[@]}}"
    code = f"{cli.completion('bash')}\n{script}"
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_settings() -> None:
    assert _bash(["ganscale", "t"]) == ["train", "tune"]
    assert _bash(["ganscale", "train", "--l"]) == ["--launcher"]
    assert _bash(["ganscale", "train", "optim.lr"]) == ["optim.lr_d=", "optim.lr_g="]
    assert _bash(["ganscale", "train", "model.generator.max_w"]) == ["model.generator.max_width="]
    assert _bash(["ganscale", "tune", "x.yaml", "sweep.see"]) == ["sweep.seed=", "sweep.seeds="]
    assert _bash(["ganscale", "sample", "optim.lr"]) == []


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_each_shell_reads_its_script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "optim.lr_g=" in script
    (tmp_path / "script").write_text(script)
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize(
    ("command", "content"),
    [
        ("train", "space: {optim.lr_g: {choice: [1e-3]}}"),
        ("train", "sweep: {name: x}"),
        ("tune", "train: {images: 5}"),
        ("doctor", "space: {}"),
    ],
)
def test_a_file_for_another_command_is_refused(
    command: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    assert cli.main([command, str(path)]) == cli.REFUSED
    message = capsys.readouterr().err
    assert message.startswith("ganscale: error: config = ")
    assert f"python -m ganscale.{'train' if command == 'tune' else 'tune'}" in message


def test_no_such_file_is_refused_with_what_may_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    for word, remedy in (("min.yaml", "did you mean 'mine.yaml'"), ("optim.lr_g", "write optim.lr_g=VALUE")):
        assert cli.main(["train", word]) == cli.REFUSED
        assert remedy in capsys.readouterr().err
