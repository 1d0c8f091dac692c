"""What `data.path` names: a folder, a zip, or shards; and which files of a folder are the shards of one set.

Shards are the tars of a webdataset (`ganscale.data.webdataset`) or parquet files (`ganscale.data.parquet`). A folder
that holds pictures is a folder of pictures, whatever else it holds.
"""

import re
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from ganscale.config import ConfigError
from ganscale.config.datasets import is_pattern
from ganscale.data.files import ENDINGS, NOT_READ, Files, FolderFiles, StoreFiles, ZipFiles, is_hidden, refuse
from ganscale.data.parquet import ParquetFiles
from ganscale.data.prepared import INDEX, MANIFEST, NAMES
from ganscale.data.webdataset import TarFiles
from ganscale.storage.store import Place, StorePath

COMPRESSED = (".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tar.zst")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled"), "unlabeled"),
}
"""Words of file and folder names that tell the splits of a data set apart."""
_NUMBERED = re.compile(r"(.*)-(\d{2,})-of-(\d{2,})(?:-[0-9a-f]{6,})?(\.\w+)")
"""Series as webdataset and Hugging Face's datasets number them; the latter's older versions add a hash."""
_KINDS = {".tar": TarFiles, ".parquet": ParquetFiles}


def open_files(path: Place) -> Files:
    """The files of a folder, a zip or shards.

    Args:
        path: of a folder, a zip, a tar or a parquet file, or of a prefix or such an object in a bucket; the name may
            be a pattern of shards, such as `train-*.parquet`.

    Raises:
        ConfigError: the shards are not those of one set.
        FileNotFoundError: no such path.
        ValueError: it is none of these, or damaged.
    """
    if is_pattern(path.name) and not path.exists():
        return _matching(path)
    ending = PurePosixPath(path.name.lower()).suffix
    if isinstance(path, StorePath):
        path = path if path.key or not ending else path.parent / path.name  # the URI names an object
        if ending == ".zip":
            return ZipFiles(path)
        if ending in _KINDS:
            return _KINDS[ending](path, path.parent, [path.name])
        return _of_folder(StoreFiles(path))
    if path.is_dir():
        return _of_folder(FolderFiles(path))
    if not path.exists():
        raise FileNotFoundError(f"no such folder or zip: {path}")
    if ending in _KINDS:
        return _KINDS[ending](path, path.parent, [path.name])
    if ending == ".zip" or zipfile.is_zipfile(path):
        return ZipFiles(path)
    if path.name.lower().endswith(COMPRESSED):
        raise ValueError(f"a compressed tar: {path}; unpack the compression, as single pictures cannot be read from it")
    raise ValueError(f"neither a folder nor a zip, tar or parquet file: {path}")


def _matching(path: Place) -> Files:
    """The shards whose names match a pattern."""
    if isinstance(path, StorePath):
        path = path if path.key else path.parent / path.name
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    found = (entry.name for entry in folder.iterdir() if not is_hidden(entry.name))
    names = sorted(name for name in found if fnmatchcase(name, path.name))
    if not names:
        raise FileNotFoundError(f"no file matches {path}")
    endings = {name: PurePosixPath(name.lower()).suffix for name in names}
    kinds = set(endings.values())
    if len(kinds) > 1 or not kinds <= _KINDS.keys():
        wrong = min(names, key=lambda name: (endings[name] in _KINDS, endings[name] == ".tar"))
        raise ValueError(f"{path} also matches {wrong}: a pattern names tar shards, or parquet files")
    return _KINDS[kinds.pop()](path, folder, names)


def _of_folder(files: FolderFiles | StoreFiles) -> Files:
    """The files themselves if there are pictures among them, otherwise the shards."""
    shards: dict[str, list[str]] = {ending: [] for ending in _KINDS}
    problems: list[tuple[str, str]] = []
    others: list[str] = []
    for name, problem in files.walk():
        ending = PurePosixPath(name).suffix.lower()
        if ending in ENDINGS | NOT_READ:
            return files
        if name.lower().endswith(COMPRESSED):
            problem = problem or "is compressed: unpack the compression, as single pictures cannot be read from it"
        if problem:
            problems.append((name, problem))
        elif ending in _KINDS:
            shards[ending].append(name)
        else:
            others.append(name)
    if not any(shards.values()):
        return files
    kind = ".tar" if shards[".tar"] else ".parquet"
    names = sorted(shards[kind])
    _refuse_prepared(files.path, others)
    if kind == ".tar":
        refuse(files.path, problems + _strangers(names, sorted(shards[".parquet"])))
    refuse(files.path, problems)
    _check_splits(files.path, names)
    return _KINDS[kind](files.path, files.path, names, others)


def _refuse_prepared(path: Place, others: Sequence[str]) -> None:
    """Refuse the tars of a prepared set without the files that make it one: pictures or classes would be missing."""
    if found := {MANIFEST, INDEX, NAMES, "parts/settings.json"} & set(others):
        problem = f"holds tars of ganscale prepare, as {min(found)} shows, but no whole set"
        remedy = "run the same ganscale prepare once more; as SOURCE name the pictures that the set was made of"
        raise ConfigError(problem, key="data.path", value=str(path), remedy=remedy)


def _strangers(tars: Sequence[str], tables: Sequence[str]) -> list[tuple[str, str]]:
    """Parquet files beside tars that are not img2dataset's table of one of them."""
    stems = {name.removesuffix(PurePosixPath(name).suffix) for name in tars}
    strange = [name for name in tables if name.removesuffix(PurePosixPath(name).suffix) not in stems]
    return [(name, "lies beside tars; a set is either tars or parquet files") for name in strange]


def _check_splits(path: Place, names: Sequence[str]) -> None:
    """Refuse several splits together, and a numbered series that is not whole."""
    splits: dict[str, list[str]] = {}
    series: dict[tuple[str, str], dict[int, dict[int, str]]] = {}
    one_export = "remove one of the two exports, or name one by a pattern"
    for name in names:
        words = re.split("[^a-z]+", name.lower())
        splits.setdefault(next((SPLITS[word] for word in reversed(words) if word in SPLITS), "none"), []).append(name)
        if found := _NUMBERED.fullmatch(name):
            known = series.setdefault((found[1], found[4]), {}).setdefault(int(found[3]), {})
            if (first := known.setdefault(int(found[2]), name)) != name:
                problem = f"holds one file of a series twice: {first} and {name}"
                raise ConfigError(problem, key="data.path", value=str(path), remedy=one_export)
    if len(splits) > 1:
        shown = ", ".join(f"{split} ({found[0]}, ...)" for split, found in sorted(splits.items()))
        remedy = f"name one by a pattern, e.g. data.path={path}/train-*, or put each into a folder of its own"
        raise ConfigError(f"holds several splits: {shown}", key="data.path", value=str(path), remedy=remedy)
    for (prefix, ending), totals in series.items():
        if len(totals) > 1:
            problem = f"holds {prefix} in {' and in '.join(f'{total} files' for total in sorted(totals))}"
            raise ConfigError(problem, key="data.path", value=str(path), remedy=one_export)
        ((total, numbers),) = totals.items()
        if missing := sorted(set(range(total)) - numbers.keys()):
            name = f"{prefix}-{missing[0]:05d}-of-{total:05d}{ending}"
            problem = f"{name} is missing" + (f", and {len(missing) - 1:,} more" if missing[1:] else "")
            remedy = "complete the set, or name the files that are to be used by a pattern"
            raise ConfigError(problem, key="data.path", value=str(path), remedy=remedy)
