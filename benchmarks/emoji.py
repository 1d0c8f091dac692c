"""Noto's emoji as prepared sets: `python -m benchmarks.emoji [FOLDER]`, which `make data-emoji` runs.

Takes the pictures from the npm package `emoji-datasource-google`, by npm, or without it from the registry named in
NPM_CONFIG_REGISTRY. Noto Emoji's pictures are under the Apache License 2.0, the package's own files under the MIT
License. Only groups of pictures that share a layout are kept, each as a class.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.data.pictures import Rules
from ganscale.prepare.convert import Settings, as_text, prepare
from ganscale.storage.files import write_bytes_atomically

PACKAGE, VERSION = "emoji-datasource-google", "16.0.0"
INTEGRITY = "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="
"""SHA-512 of the package's tarball in base64, as npm has it."""
PICTURES = "package/img/google/64/"
"""Where the tarball has PNGs of 64 pixels with alpha."""
GROUPS = {
    "flags": ("country-flag", "flag", "subdivision-flag"),
    "hands": (
        *("hand-fingers-closed", "hand-fingers-open", "hand-fingers-partial", "hand-prop"),
        "hand-single-finger",
    ),
    "people": ("person", "person-gesture", "person-role"),
    "smileys": (
        *("cat-face", "face-affection", "face-concerned", "face-costume", "face-glasses", "face-hand", "face-hat"),
        *("face-negative", "face-neutral-skeptical", "face-sleepy", "face-smiling", "face-tongue", "face-unwell"),
    ),
}
"""Unicode's subgroups of emoji by class."""
SIDES = (32, 64)


def download(folder: Path) -> Path:
    """The package's tarball, checked.

    Args:
        folder: where to put it.

    Raises:
        ExecutionError: neither npm nor a registry is there, it does not answer, or the checksum differs.
    """
    npm = shutil.which("npm")
    path = folder / f"{PACKAGE}-{VERSION}.tgz"
    if npm:
        command = [npm, "pack", "--silent", "--pack-destination", str(folder), f"{PACKAGE}@{VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            raise ExecutionError(f"npm pack failed: {(done.stderr or done.stdout).strip() or done.returncode}")
    else:
        registry = os.environ.get("NPM_CONFIG_REGISTRY", "")
        if not registry.startswith("https://"):
            raise ExecutionError("npm is not installed: install it, or name a registry (https) in NPM_CONFIG_REGISTRY")
        url = f"{registry.rstrip('/')}/{PACKAGE}/-/{path.name}"
        with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:  # noqa: S310 (https)
            shutil.copyfileobj(answer, file)
    with path.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != INTEGRITY:
        raise ExecutionError(f"{path.name} has the SHA-512 {found}, not {INTEGRITY}: what was downloaded is not used")
    return path


def chosen(catalog: list[dict[str, object]]) -> dict[str, str]:
    """Classes by the names of the pictures that are kept.

    Args:
        catalog: the package's `emoji.json`: an entry per emoji, with its skin tones.
    """
    classes = {subgroup: name for name, subgroups in GROUPS.items() for subgroup in subgroups}
    found: dict[str, str] = {}
    for entry in catalog:
        name = classes.get(str(entry["subcategory"]))
        tones: dict[str, dict[str, object]] = entry.get("skin_variations", {})  # pyright: ignore[reportAssignmentType]
        for variant in (entry, *tones.values()):
            if name and variant["has_img_google"]:
                found[str(variant["image"])] = name
    return found


def repack(tarball: Path, target: Path) -> None:
    """Write the chosen pictures into a zip, in a folder per class.

    Args:
        tarball: of the package.
        target: the zip; it appears as a whole.
    """
    with tempfile.TemporaryFile() as file, tarfile.open(tarball) as source:
        contents = {m.name: read.read() for m in source if _is_needed(m) and (read := source.extractfile(m))}
        classes = chosen(json.loads(contents["package/emoji.json"]))
        with zipfile.ZipFile(file, "w") as archive:
            for image, name in sorted(classes.items()):
                archive.writestr(zipfile.ZipInfo(f"{name}/{image}"), contents[PICTURES + image])
        file.seek(0)
        write_bytes_atomically(target, file.read())


def _is_needed(member: tarfile.TarInfo) -> bool:
    return member.isfile() and (member.name == "package/emoji.json" or member.name.startswith(PICTURES))


def make(folder: Path) -> None:
    """Download the package unless it was, and prepare both sizes unless they are.

    Args:
        folder: gets `emoji.zip`, `emoji_32` and `emoji_64`.

    Raises:
        ExecutionError: the package cannot be had.
        ConfigError: a folder holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = folder / "emoji.zip"
    if not pictures.exists():
        with tempfile.TemporaryDirectory(dir=folder) as room:
            repack(download(Path(room)), pictures)
    for side in SIDES:
        target = folder / f"emoji_{side}"
        report = prepare(
            pictures, target, Settings(side, Rules(channels=3), workers=os.cpu_count() or 1), lambda *_: None
        )
        print(as_text(report, str(target)), flush=True)
    print("pictures: Noto Emoji, Apache License 2.0; next: python -m ganscale.train configs/emoji_32.yaml")


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
    except (ConfigError, ExecutionError, OSError) as error:
        sys.exit(f"data-emoji: {error}")
