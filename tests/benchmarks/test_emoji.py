"""The emoji sets: what is chosen of the package, which downloads are refused, and that a second run downloads none."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import emoji
from ganscale.config import ConfigError, load
from ganscale.config.checks import check_files
from ganscale.config.errors import ExecutionError
from ganscale.data.prepared import PreparedSet

ROOT = Path(__file__).parents[2]


def entry(image: str, subgroup: str, *tones: str, has: bool = True) -> dict[str, object]:
    """An emoji of the catalog."""
    variants = {tone: {"image": f"{tone}.png", "has_img_google": True} for tone in tones}
    return {"image": f"{image}.png", "subcategory": subgroup, "has_img_google": has, "skin_variations": variants}


CATALOG = [entry("a", "person", "b", "c"), entry("d", "country-flag"), entry("e", "animal-bird")]
CATALOG += [entry("f", "face-smiling"), entry("g", "face-hat", has=False), entry("h", "hand-prop")]


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    """A package with the catalog above."""
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for image in "abcdefgh":
            file = io.BytesIO()
            Image.new("RGBA", (64, 64), (ord(image), 0, 0, 255 if image < "f" else 0)).save(file, format="PNG")
            add(archive, f"{emoji.PICTURES}{image}.png", file.getvalue())
        add(archive, "package/emoji.json", json.dumps(CATALOG).encode())
        add(archive, "package/img/google/sheets/64.png", b"x")
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """A file of a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_groups_are_kept_with_their_skin_tones() -> None:
    assert emoji.chosen(CATALOG) == {
        **dict.fromkeys(("a.png", "b.png", "c.png"), "people"),
        "d.png": "flags",
        "f.png": "smileys",
        "h.png": "hands",
    }


def test_both_sizes_are_prepared_and_downloaded_once(
    tarball: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = []
    monkeypatch.setattr(emoji, "download", lambda room: downloads.append(room) or tarball)
    monkeypatch.setattr(emoji.os, "cpu_count", lambda: 1)
    for _ in range(2):
        emoji.make(tmp_path / "data")
    assert len(downloads) == 1
    for side in emoji.SIDES:
        found = PreparedSet(tmp_path / "data" / f"emoji_{side}").manifest
        assert (found.num_images, found.resolution, found.channels) == (6, side, 3)
        assert found.classes == ("flags", "hands", "people", "smileys")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"emoji.zip", "emoji_32", "emoji_64"}


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An npm that does something else; its fourth argument is the folder."""
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_download_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{emoji.PACKAGE}-{emoji.VERSION}.tgz"
    fake_npm(tmp_path, f'echo hello > "$4/{name}"', monkeypatch)
    with pytest.raises(ExecutionError, match="SHA-512"):
        emoji.download(tmp_path)
    monkeypatch.setattr(emoji, "INTEGRITY", base64.b64encode(hashlib.sha512(b"hello\n").digest()).decode())
    assert emoji.download(tmp_path) == tmp_path / name


@pytest.mark.parametrize("script", ["exit 1", "echo no such package >&2; exit 1", "exit 0"])
def test_a_failed_download_is_an_error(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, script, monkeypatch)
    with pytest.raises(ExecutionError, match="npm pack failed"):
        emoji.download(tmp_path)


def test_without_npm_a_registry_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    with pytest.raises(ExecutionError, match="NPM_CONFIG_REGISTRY"):
        emoji.download(tmp_path)


def test_a_run_without_the_pictures_names_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(ROOT / "configs" / "emoji_32.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        check_files(config)
    assert error.value.key == "data.path"
    assert "make data-emoji" in str(error.value)
