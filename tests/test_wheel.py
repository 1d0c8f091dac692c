"""What `make wheel` builds is complete and reproducible, and enough to use ganscale without the repository."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import ganscale

ROOT = Path(__file__).parents[1]
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, f'build_{sys.argv[1]}')(sys.argv[2])"
OTHERS = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff")
EPOCH = 1_700_000_000


def checkout(folder: Path) -> Path:
    """A copy of what the archives are built from."""
    for name in ("ganscale", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in (*OTHERS, "SECURITY.md", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a wheel or an sdist of a folder."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    out.mkdir(exist_ok=True)
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    (archive,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build("wheel", checkout(folder / "source"), folder / "out")


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    source = wheel.parents[1] / "source"
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    configs = {f"ganscale/configs/{name}" for name in below(source / "configs")}
    assert packed == configs | {f"ganscale/{name}" for name in below(source / "ganscale")}
    assert {Path(name).suffix for name in packed} >= {
        ".py",
        ".typed",
        ".gz",
        ".safetensors",
        ".html",
        ".js",
        ".css",
        ".yaml",
    }


def test_equal_sources_give_equal_archives(wheel: Path, tmp_path: Path) -> None:
    """From other folders, with other times and by way of the sdist, as `make wheel` builds."""
    sdists = []
    for number in (1, 2):
        source = checkout(tmp_path / f"source{number}")
        for path in source.rglob("*"):
            os.utime(path, (EPOCH + number * 1000, EPOCH + number * 1000))
        sdists.append(build("sdist", source, tmp_path / f"out{number}"))
    assert hashlib.sha256(sdists[0].read_bytes()).digest() == hashlib.sha256(sdists[1].read_bytes()).digest()
    with tarfile.open(sdists[0]) as archive:
        members = archive.getmembers()
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert {(member.uid, member.gid, member.uname, member.mtime) for member in members} == {(0, 0, "", EPOCH)}
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = build("wheel", unpacked, tmp_path / "out3")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_there_is_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert ganscale.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version


@pytest.mark.slow
@pytest.mark.ray
def test_a_new_user_needs_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment and folder; the dependencies are this environment's, so that nothing is downloaded."""
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    ZipFile(wheel).extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = home / "bin" / "ganscale"
    script.write_text(f"#!{home}/bin/python\nimport sys\nfrom ganscale.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    done = subprocess.run([ROOT / ".ci" / "try-wheel", home], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
