"""The wheel that `make wheel` builds holds every file of the package: code, data, assets."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
BUILD = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"


def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "ganscale", source / "ganscale", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {str(path.relative_to(source)) for path in (source / "ganscale").rglob("*") if path.is_file()}
    assert packed == files
    assert {Path(name).suffix for name in packed} >= {".py", ".typed", ".gz", ".safetensors", ".html", ".js", ".css"}
