"""What pyproject.toml cannot say: the wheel also holds configs/, and equal sources give equal archives."""

import gzip
import os
import shutil
import tarfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist


class BuildWithConfigs(build_py):
    """Copies configs/ into the package, where `ganscale train NAME` finds them without the repository."""

    def run(self) -> None:
        """Build; an editable install reads configs/ where they lie."""
        super().run()
        if not self.editable_mode:
            ignored = shutil.ignore_patterns("[!a-z]*")
            shutil.copytree("configs", Path(self.build_lib, "ganscale", "configs"), ignore=ignored, dirs_exist_ok=True)


class ReproducibleSdist(sdist):
    """Writes sorted members without owners, at the time of SOURCE_DATE_EPOCH (reproducible-builds.org)."""

    def make_archive(self, base_name: str, *_: object, base_dir: str, **__: object) -> str:
        """Write `<base_name>.tar.gz` of a folder, and return its path."""
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))  # 1980, the first year that a zip can have
        folder, path = Path(base_dir), Path(f"{base_name}.tar.gz")
        with (
            path.open("wb") as raw,
            gzip.GzipFile("", "wb", mtime=epoch, fileobj=raw) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                member = archive.gettarinfo(file)
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mtime, member.mode = epoch, 0o755 if member.mode & 0o100 else 0o644
                with file.open("rb") as content:
                    archive.addfile(member, content)
        return str(path)


setup(cmdclass={"build_py": BuildWithConfigs, "sdist": ReproducibleSdist})
