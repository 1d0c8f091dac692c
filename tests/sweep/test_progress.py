"""How trials end, by what Ray Tune says of them: recorded, or left open where the bucket or the lease was lost."""

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from ganscale.storage.lease import Fence, LeaseLostError, StoreLease
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import ChangedError, LocalStore, Place, StorageAccessError, StorePath
from ganscale.sweep.progress import TrialStatusCallback
from ganscale.sweep.results import read_end
from tests.storage.test_lease import save


class FakeTrial:
    """A trial as Tune gives it to callbacks."""

    def __init__(self, error: Exception | None = None, *, picklable: bool = True) -> None:
        self.last_result = {"images": 320}
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "error"
        self.pickled_error_file, self.error_file = (str(path), "") if picklable else ("", str(path))
        path.write_bytes(cloudpickle.dumps(error) if picklable else b"a text")  # pyright: ignore[reportPrivateImportUsage]

    def __str__(self) -> str:
        return "0003 lr=1"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return tmp_path / "try" if request.param == "folder" else StorePath(LocalStore(tmp_path), "try")


def end_of(trials: Place) -> str:
    return read_end(trials / "0003")[0]


def callback(place: Place) -> Any:
    return TrialStatusCallback(place / "trials", Fence(place, 0) if isinstance(place, Path) else driver(place))


def driver(place: StorePath) -> Fence:
    lease = StoreLease(place, RunDir(place), patience=0.0, info=lambda _: None)
    lease._ended.set()
    return Fence(place, lease.confirm())


def test_a_trial_that_the_scheduler_stops_has_ended_without_checkpoints(place: Place) -> None:
    told = callback(place)
    save(place / "trials" / "0003" / "seed-0", 10, lambda: 0)  # pyright: ignore[reportArgumentType]
    told.on_trial_complete(0, [], FakeTrial())
    assert read_end(place / "trials" / "0003") == ("stopped", "by the scheduler at 320 images")
    assert not (place / "trials" / "0003" / "seed-0" / "checkpoints" / "000000000010").exists()
    told.on_trial_error(0, [], FakeTrial(RuntimeError("late")))
    assert end_of(place / "trials") == "stopped", "the first end counts"


@pytest.mark.parametrize(
    ("error", "in_folder", "in_bucket"),
    [
        (RuntimeError("diverged"), "failed", "failed"),
        (OSError(errno.ENOSPC, "full", "/data/x"), "failed", "failed"),
        (OSError(errno.EIO, "503", "s3://bucket/try/trials/0003/rows.jsonl"), "failed", ""),
        (StorageAccessError(errno.EACCES, "ExpiredToken", "s3://bucket/try"), "failed", ""),
        (ChangedError(errno.ESTALE, "changed", "s3://bucket/try/trials/0003/rows.jsonl"), "failed", ""),
        (LeaseLostError("another process has taken over"), "failed", ""),
        (RayTaskError("f", "text", OSError(errno.EIO, "503", "s3://bucket/try")).as_instanceof_cause(), "failed", ""),
        (RayTaskError("f", "text", ValueError("diverged")).as_instanceof_cause(), "failed", "failed"),
        (ActorDiedError(), "", ""),
    ],
    ids=["error", "disk", "bucket", "token", "changed", "lease", "bucket, from Ray", "error, from Ray", "killed"],
)
def test_what_was_lost_with_a_bucket_is_resumed(place: Place, error: Exception, in_folder: str, in_bucket: str) -> None:
    callback(place).on_trial_error(0, [], FakeTrial(error))
    assert end_of(place / "trials") == (in_folder if isinstance(place, Path) else in_bucket)


def test_an_error_that_cannot_be_pickled_is_recorded_by_its_text(place: Place) -> None:
    callback(place).on_trial_error(0, [], FakeTrial(picklable=False))
    assert read_end(place / "trials" / "0003")[1].endswith("a text")


def test_a_driver_that_lost_the_sweep_records_nothing(tmp_path: Path) -> None:
    place = StorePath(LocalStore(tmp_path), "try")
    told = callback(place)
    (place / "lease.json").write_text('{"fence": 2, "holder": "process 1 on other", "since": 0, "released": false}')
    told.on_trial_complete(0, [], FakeTrial())
    told.on_trial_error(0, [], FakeTrial(RuntimeError("diverged")))
    assert end_of(place / "trials") == ""


def test_an_outage_is_no_error_of_the_trial(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune would take it for one, and the trial would count as failed."""
    told = callback(place)

    def fail(*_: object) -> str:
        raise OSError(errno.EIO, "503", "s3://bucket/try")

    monkeypatch.setattr(LocalStore, "create", fail)
    monkeypatch.setattr("ganscale.sweep.trial.write_atomically", fail)
    for tell in (
        lambda: told.on_trial_complete(0, [], FakeTrial()),
        lambda: told.on_trial_error(0, [], FakeTrial(ValueError())),
    ):
        if isinstance(place, Path):
            with pytest.raises(OSError, match="503"):
                tell()
        else:
            tell()
    assert end_of(place / "trials") == ""
