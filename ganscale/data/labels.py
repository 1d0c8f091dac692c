"""Classes of pictures: from `dataset.json` as StyleGAN's dataset_tool writes it, or from the names of folders."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from ganscale.config import ConfigError
from ganscale.data.files import LABELS_FILE, Files, Given, Listing, read, refuse, shown_name
from ganscale.data.parquet import ParquetFiles
from ganscale.storage.store import Place

Rule = Literal["auto", "top", "path", "none"]
MAX_CLASSES = 100_000
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """The class of every picture.

    Attributes:
        rows: class of each picture, in the order of their names; all 0 without labels.
        classes: names of the classes; empty without labels.
        from_file: whether `dataset.json` has them.
    """

    rows: list[int]
    classes: tuple[str, ...] = ()
    from_file: bool = False


def find_labels(files: Files, listing: Listing, rule: Rule) -> Labels:
    """The classes by `data.labels`.

    Args:
        files: of a folder, a zip or shards.
        listing: of the files.
        rule: `data.labels`.

    Raises:
        ConfigError: the rule does not fit the files, or `dataset.json` is not as it should be.
    """
    names = listing.pictures
    if rule == "none":
        return Labels([0] * len(names))
    if rule == "auto" and (given := files.labels()):
        return _from_given(files, names, given)
    if rule != "auto" and isinstance(files, ParquetFiles):
        remedy = "use auto (the column of classes) or none"
        raise ConfigError("parquet files have no folders of classes", key="data.labels", value=rule, remedy=remedy)
    inner = [files.inner_name(name) for name in names]
    if rule == "path":
        return _numbered([str(PurePosixPath(name).parent) for name in inner])
    shared = _shared_folder(names)
    if rule == "auto" and listing.labels:
        top = names[0].removesuffix(inner[0]) if names else ""  # of a single tar, the tar
        wanted = {LABELS_FILE, f"{shared}{LABELS_FILE}", *([f"{top}{LABELS_FILE}"] if shared.startswith(top) else [])}
        refuse(
            files.path,
            [(name, "is not at the top") for name in listing.labels if name not in wanted],
            remedy="name the folder that holds it in data.path, or set data.labels=top, path or none",
        )
        return _from_file(files, min(listing.labels, key=len), names)
    shared = _shared_folder(inner)
    folders = [PurePosixPath(name.removeprefix(shared)).parent.parts for name in inner]
    if rule == "top":
        return _numbered([parts[0] if parts else "." for parts in folders])
    remedy = "set data.labels: top (the first folder is the class), path (every folder is one) or none (no classes)"
    deep = [(name, "lies more than one folder deep") for name, parts in zip(names, folders, strict=True) if parts[1:]]
    refuse(files.path, deep, remedy=remedy)
    if any(folders):
        bare = [
            (name, "lies beside the folders of classes")
            for name, parts in zip(names, folders, strict=True)
            if not parts
        ]
        refuse(files.path, bare, remedy=f"move it into one of them, or {remedy}")
    return _numbered([parts[0] if parts else "" for parts in folders])


def warn_of_folders(files: Files, labels: Labels, rule: Rule) -> None:
    """Warn where parquet files without classes lie in several folders, which look like classes and are none.

    Args:
        files: of a folder, a zip or shards.
        labels: of `find_labels`.
        rule: `data.labels`.
    """
    if rule != "auto" or labels.classes or not isinstance(files, ParquetFiles):
        return
    if len({PurePosixPath(name).parent for name in files.shards}) > 1:
        _logger.warning("folders of parquet files are no classes: add a column `label` to have some")


def _from_given(files: Files, names: Sequence[str], given: Given) -> Labels:
    """The classes that stand beside the pictures."""
    there = set(names)
    problems = [(name, problem) for name, problem in given.problems if name in there]
    refuse(files.path, problems, remedy="give each picture a class, or set data.labels=none")
    values = [given.values[name] for name in names]
    if all(value is None for value in values):
        return Labels([0] * len(names), from_file=True)

    def wrong(name: str, problem: str) -> ConfigError:
        remedy = "correct it, or set data.labels=none"
        return ConfigError(f"{shown_name(name)} has {problem}", key="data.path", value=str(files.path), remedy=remedy)

    if not given.names:
        return _from_values(names, values, wrong)
    for name, value in zip(names, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(given.names):
            raise wrong(name, f"the class {value!r}; the schema names 0 to {len(given.names) - 1:,}")
    return Labels(values, given.names, from_file=True)


def _shared_folder(names: Sequence[str]) -> str:
    """The folders that hold all pictures, with a slash at the end; the class does not depend on them."""
    folders = [PurePosixPath(name).parent.as_posix() for name in names]
    shared = os.path.commonpath(folders) if folders and "." not in folders else ""
    return f"{shared}/" if shared else ""


def _numbered(keys: Sequence[str]) -> Labels:
    """Classes in the order of the sorted keys; none if there is a single one."""
    classes = sorted(set(keys))
    number = {key: index for index, key in enumerate(classes)}
    return Labels([number[key] for key in keys], tuple(classes) if len(classes) > 1 else ())


def _from_file(files: Files, place: str, names: Sequence[str]) -> Labels:
    """The classes that `dataset.json` gives."""

    def wrong(problem: str) -> ConfigError:
        remedy = 'write {"labels": [["a.png", 0], ...]} or {"labels": null}; or set data.labels=top, path or none'
        return ConfigError(f"{place} {problem}", key="data.path", value=str(files.path), remedy=remedy)

    try:
        content = json.loads(read(files, place))
    except (OSError, ValueError, RecursionError) as error:
        raise wrong(f"cannot be read: {error}") from None
    if not isinstance(content, dict) or "labels" not in content:
        raise wrong('holds no "labels"')
    given = content["labels"]
    if given is None:
        return Labels([0] * len(names), from_file=True)
    if isinstance(given, dict):
        given = list(given.items())
    if not isinstance(given, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in given
    ):
        raise wrong("has labels that are no pairs of a file's name and its class")
    folder = place.removesuffix(LABELS_FILE)
    known = {f"{folder}{name.replace(chr(92), '/').removeprefix('./')}": label for name, label in given}
    if len(known) < len(given):
        seen: set[str] = set()
        twice = next(name for name, _ in given if name in seen or seen.add(name))
        raise wrong(f"lists {shown_name(twice)} twice")
    _check_names(files.path, place, names, known)
    labels = [known[name] for name in names]
    if all(label is None for label in labels):
        return Labels([0] * len(names), from_file=True)
    return _from_values(names, labels, lambda name, problem: wrong(f"gives {shown_name(name)} {problem}"))


def _check_names(path: Place, place: str, names: Sequence[str], known: dict[str, Any]) -> None:
    """Refuse labels of files that are not there, and files without labels."""
    there = set(names)
    refuse(
        path,
        [(name, f"is listed in {place}, but is not there, or no picture") for name in known if name not in there],
        remedy=f"add the files, or correct {place}",
    )
    refuse(
        path,
        [(name, f"is not listed in {place}") for name in names if name not in known],
        remedy="list it with its class, or remove it, or set data.labels=none",
    )


def _from_values(names: Sequence[str], labels: Sequence[Any], wrong: Callable[[str, str], ConfigError]) -> Labels:
    """Classes from numbers, names or one-hot vectors, all of one kind."""
    if all(isinstance(label, str) for label in labels):
        return replace(_numbered(labels), from_file=True)
    if all(isinstance(label, list) for label in labels):
        length = len(labels[0])
        for name, label in zip(names, labels, strict=True):
            if (
                len(label) != length
                or sum(value == 1 for value in label) != 1
                or sum(value == 0 for value in label) != length - 1
            ):
                raise wrong(name, "a vector that is not one-hot, or of another length; a picture has one class")
        labels = [label.index(1) for label in labels]
    else:
        length = 0
        for name, label in zip(names, labels, strict=True):
            is_number = isinstance(label, int | float) and not isinstance(label, bool)
            if not is_number or label != label // 1 or not 0 <= label < MAX_CLASSES:
                problem = f"the class {json.dumps(label, default=str)[:40]}; all are names, or all numbers from 0"
                raise wrong(name, f"{problem} to {MAX_CLASSES - 1:,}")
    count = length or int(max(labels)) + 1
    return Labels([int(label) for label in labels], tuple(map(str, range(count))), from_file=True)
