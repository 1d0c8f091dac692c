"""`python -m ganscale.train` in one process: complete runs, interrupted ones, and everything that is refused."""

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganscale.config.errors import shown
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from ganscale.train import main
from tests.config.bad import BAD, Bad
from tests.processes import TRAIN, final_state, snapshot
from tests.runs import MLP

TINY = (*MLP, "train.batch_size=16", "train.images=960", "log.every=160", "log.samples_every=480", "log.num_samples=4")
SAVED = ("checkpoint.every=240", "checkpoint.keep=9", "checkpoint.mode=inline")
SAVING = (*SAVED, "wandb.mode=disabled", "cluster.timeout=2", "run.name=try1")
LOCAL = ("--launcher", "local", *TINY, *SAVING)
LAUNCHERS = ("auto", "ray", "local", "torchrun")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    """Where the runs of this file lie."""
    return RunDir(tmp_path / "runs" / "try1")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that must be refused."""
    try:
        code: Any = main(arguments)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == 2, said
    assert "Traceback" not in said.out + said.err
    assert said.err.count("error: ") == 1
    assert len(said.err) < 700
    return said.err


@pytest.mark.parametrize("bad", [bad for bad in BAD if bad.name not in ("no_equals", "option")], ids=lambda b: b.name)
def test_bad_settings_end_with_one_message_and_touch_nothing(
    bad: Bad, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, overrides = bad.arguments(tmp_path)
    before = snapshot(tmp_path)
    message = refused(capsys, *([str(path)] if path else []), *overrides)
    value = shown(path) if bad.key == "config" and not bad.value else bad.value
    assert message.startswith(f"ganscale: error: {bad.key} = {value}: ")
    assert bad.remedy in message.partition("\n  remedy: ")[2]
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one.yaml", "two.yaml"], "argument = two.yaml: "),
        (["--lr", "1"], "unrecognized arguments: --lr"),
        (["--launcher", "slurm"], "invalid choice: 'slurm'"),
        (["--launcher"], "expected one argument"),
        (["optim.lr_g"], "config = optim.lr_g: no such config file"),
        (["--launcher", "torchrun"], "torchrun --nproc-per-node"),
        (["--launcher", "local", "cluster.num_workers=2"], "--launcher ray or torchrun"),
        (["--launcher", "local", "train.device=cuda"], "use train.device=auto or cpu"),
        (["run.dir=/dev/null"], "run.dir = /dev/null: is not a folder"),
        (["run.dir=/proc"], "run.dir = /proc: cannot be written"),
        (["run.dir=~nobody-there/x"], "name an absolute folder"),
        (["cluster.address=local", "cluster.num_workers=999", "train.batch_size=999"], "this machine has "),
        (["cluster.address=local", "cluster.cpus_per_worker=999"], "cluster.cpus_per_worker = 999: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_this_command_line_cannot_do_is_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert words in refused(capsys, *arguments)
    assert snapshot(tmp_path) == {}


def test_torchrun_with_another_number_of_workers_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert "use cluster.num_workers=auto or 3" in refused(capsys, "cluster.num_workers=2")
    assert "train.batch_size >= 3" in refused(capsys, "train.batch_size=2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "train.device = cuda: " in refused(capsys, "train.device=cuda")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "start at most 2 processes here" in refused(capsys)


def other_config(folder: RunDir) -> str:
    folder.config.write_text(folder.config.read_text().replace("betas_g", "betas_h"))
    return "the config in this run's folder cannot be read"


def damaged_config(folder: RunDir) -> str:
    folder.config.write_bytes(folder.config.read_bytes()[:100] + b"\xff")
    return "the config in this run's folder cannot be read"


def empty_config(folder: RunDir) -> str:
    folder.config.write_bytes(b"")
    return "train.batch_size: 64 -> 16"


def config_is_a_folder(folder: RunDir) -> str:
    folder.config.unlink()
    folder.config.mkdir()
    return "Is a directory"


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("spoil", [other_config, damaged_config, empty_config, config_is_a_folder])
def test_a_run_with_another_config_is_refused_and_left_alone(
    folder: RunDir, capsys: pytest.CaptureFixture[str], launcher: str, spoil: Callable[[RunDir], str]
) -> None:
    assert main(["--launcher", "local", *TINY, *SAVING, "train.images=16"]) == 0
    words = spoil(folder)
    capsys.readouterr()
    before = snapshot(folder.path)
    assert words in refused(capsys, *TINY, *SAVING, "train.images=32", "--launcher", launcher)
    assert snapshot(folder.path) == before


@pytest.mark.parametrize("launcher", ["ray", "local"])
def test_a_run_that_another_process_writes_is_refused_and_left_alone(
    folder: RunDir, capsys: pytest.CaptureFixture[str], launcher: str
) -> None:
    assert main([*LOCAL, "train.images=16"]) == 0
    before = snapshot(folder.path)
    with (folder.path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused(capsys, *TINY, *SAVING, "--launcher", launcher)
    assert f"run.name = try1: another process is writing to {folder.path}" in message
    assert snapshot(folder.path) == before


def test_a_run_ends_with_everything_where_it_says(folder: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LOCAL, "wandb.mode=offline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    places = dict(line.split(maxsplit=1) for line in lines[-4:])
    assert lines[-5] == "run try1 is complete at 960 images"
    assert places.pop("W&B") == f"offline; upload with: wandb sync {folder.path}/wandb/offline-run-*"
    assert places == {
        "samples": f"{folder.samples}/",
        "metrics": str(folder.metrics),
        "checkpoints": f"{folder.checkpoints}/",
    }
    assert len(list(folder.path.glob("wandb/offline-run-*"))) == 1
    assert sorted(path.name for path in folder.samples.iterdir()) == [f"{n:08d}.png" for n in (0, 480, 960)]
    assert [row["images"] for row in read_metrics(folder)] == [160, 240, 320, 480, 640, 720, 800, 960]
    assert [int(path.name) for path in CheckpointStore(folder.path / "checkpoints").folders()] == [960, 720, 480, 240]
    progress = [line for line in lines if " / 960 images" in line]
    assert len(progress) == 8
    stamped = folder.log.read_text().splitlines()
    assert [line[20:] for line in stamped] == lines[:-5]


def test_a_complete_run_says_so_and_is_left_alone_and_goes_on_when_made_longer(
    folder: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*LOCAL, "train.images=480"]) == 0
    before = snapshot(folder.path)
    capsys.readouterr()
    for launcher in LAUNCHERS:
        for images in (480, 100):
            assert main([*LOCAL, f"train.images={images}", "--launcher", launcher]) == 0
            out = capsys.readouterr().out
            assert out.startswith(f"run try1 is complete at 480 images: {folder.path}\n")
            assert "raise train.images" in out
    assert snapshot(folder.path) == before
    assert main(LOCAL) == 0
    assert "resuming at 480 images" in capsys.readouterr().out
    assert main([*LOCAL, "run.name=straight"]) == 0
    assert final_state(folder.path) == final_state(tmp_path / "runs" / "straight")


class Interruption:
    """In place of `CheckpointStore.save`: stops the run at the given call, before or after it has saved."""

    def __init__(self, at: int, *, saved: bool) -> None:
        self.left, self.saved, self.save = at, saved, CheckpointStore.save

    def __get__(self, store: CheckpointStore, _: type) -> Callable[..., Path]:
        def save(*arguments: Any, **options: Any) -> Path:
            self.left -= 1
            if self.left:
                return self.save(store, *arguments, **options)
            if self.saved:
                self.save(store, *arguments, **options)
            raise KeyboardInterrupt

        return save


def interrupted(at: int, *, saved: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "save", Interruption(at, saved=saved))
        assert main(LOCAL) == 130


def disturb_nothing(_: RunDir) -> None:
    """The run just goes on."""


def truncate_newest(folder: RunDir) -> None:
    path = CheckpointStore(folder.path / "checkpoints").folders()[0] / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])


def alter_newest(folder: RunDir) -> None:
    path = CheckpointStore(folder.path / "checkpoints").folders()[0] / "state.pt"
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)


def half_a_row(folder: RunDir) -> None:
    with folder.metrics.open("a") as file:
        file.write('{"images": 800, "lo')


@pytest.mark.parametrize("disturb", [disturb_nothing, truncate_newest, alter_newest, half_a_row])
@pytest.mark.parametrize("saved", [True, False])
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    folder: RunDir,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    disturb: Callable[[RunDir], None],
    saved: bool,
) -> None:
    interrupted(3, saved=saved)
    newest = 720 if saved else 480
    disturb(folder)
    interrupted(1, saved=saved)
    capsys.readouterr()
    disturb(folder)
    assert main(LOCAL) == 0
    out = capsys.readouterr().out
    if disturb in (truncate_newest, alter_newest):
        assert f"checkpoint {newest:012d} is not used: its state " in out
        newest -= 240
    elif saved:
        newest += 240
    if newest < 960:
        assert f"resuming at {newest} images" in out
    assert main([*LOCAL, "run.name=straight"]) == 0
    straight = RunDir(tmp_path / "runs" / "straight")
    assert final_state(folder.path) == final_state(straight.path)
    rows, expected = read_metrics(folder), read_metrics(straight)
    assert [row["images"] for row in rows] == [row["images"] for row in expected]
    assert [row["loss_d"] for row in rows] == [row["loss_d"] for row in expected]
    assert snapshot(folder.samples) == snapshot(straight.samples)


def test_options_may_stand_between_settings(folder: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train.images=5", "--dry-run", "train.batch_size=4", "--launcher", "local", "run.seed=3"]) == 0
    out = capsys.readouterr().out
    assert "images: 5\n" in out
    assert "seed: 3\n" in out
    assert not folder.path.parent.exists()


def test_an_evaluation_beside_training_is_announced_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "eval.mode=async", "eval.cpus=3"]) == 0
    assert "\n# eval.mode = async: evaluation takes 3 CPUs beside the workers\n" in capsys.readouterr().out
    assert "eval.gpus = 1: " in refused(capsys, *LOCAL, "eval.mode=async", "eval.gpus=1")


def test_a_run_too_short_for_its_average_says_so_before_it_begins(
    folder: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dry-run", "train.images=64_000", "ema.rampup=0"]) == 0
    assert "\n# warning: ema.half_life = 30,000 images is long for train.images = 64,000 " in capsys.readouterr().out
    assert main([*LOCAL, "ema.rampup=0", "ema.half_life=9999"]) == 0
    lines = folder.log.read_text(encoding="utf-8").splitlines()
    (warned,) = (number for number, line in enumerate(lines) if "warning: ema.half_life = 9,999 " in line)
    (begins,) = (number for number, line in enumerate(lines) if " memory per worker: " in line)
    assert warned < begins


def test_a_local_run_needs_neither_ray_nor_when_disabled_wandb() -> None:
    arguments = [*LOCAL, "train.images=16"]
    code = f"import sys; from ganscale.train import main\nassert main({arguments}) == 0\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not {"ray", "wandb"} & set(done.stdout.splitlines()[-1].split())


def test_the_command_as_users_type_it(tmp_path: Path) -> None:
    done = subprocess.run([*TRAIN, "optim.lrg=1"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ganscale: error: optim.lrg = 1: unknown key\n  remedy: did you mean 'lr_g'?\n"
    done = subprocess.run([*TRAIN, "--dry-run"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "run.yaml").write_text(done.stdout)
    assert main(["run.yaml", "--dry-run"]) == 0


def test_a_full_disk_does_not_stop_a_run_before_its_end(
    folder: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        patch.setattr("ganscale.tracking.jsonl.write_png", full)
        patch.setattr("ganscale.tracking.jsonl.json.dumps", full)
        assert main(LOCAL) == 1
    said = capsys.readouterr()
    assert said.err == "ganscale: training failed: [Errno 28] No space left on device\n"
    assert said.out.count("the checkpoint could not be saved") == 4
    assert said.out.count("JsonlTracker could not write") == 8 + 3 + 1, "rows, grids and the real examples"
    assert main(LOCAL) == 0
    assert [row["images"] for row in read_metrics(folder)][-1] == 960
