"""Pictures examined before a run starts: the headers of all, and as many decoded as takes seconds.

Decoded are all pictures, or as many of them, evenly spaced, as stay within `MAX_DECODED` and `MAX_DECODED_PIXELS`.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TypeVar

import torch

from ganscale.config import Config, ConfigError
from ganscale.config.datasets import Resolution
from ganscale.config.section import is_conditional
from ganscale.data.fetch import Fetcher
from ganscale.data.files import ARCHIVES, Files, Listing, list_files, read, refuse, shown_name
from ganscale.data.folder import (
    SAMPLE_OF_BUCKET,
    arrange,
    examined_names,
    given_settings,
    open_unprepared,
    reading_of,
    rules_of,
)
from ganscale.data.labels import Labels, find_labels, warn_of_folders
from ganscale.data.parquet import ParquetFiles
from ganscale.data.pictures import Header, Rules, decode, read_header
from ganscale.data.prepared import PreparedSet, check_settings, is_prepared
from ganscale.storage.store import Place, open_place

MAX_DECODED = 10_000
MAX_DECODED_PIXELS = 200_000_000
FEW = 1000
"""Pictures below which a discriminator without augmentation memorizes them (Karras et al. 2020, figure 1)."""
DARK = 16
"""Byte that 16-bit pictures of 12 bits do not exceed."""
_BATCH = 4096
_logger = logging.getLogger(__name__)
T = TypeVar("T")


def check_pictures(config: Config) -> None:
    """Refuse pictures and labels that cannot be read right, and warn of what a user may not expect.

    Under torchrun the first process of each machine does it.

    Args:
        config: a run on a folder or zip of pictures.

    Raises:
        ConfigError: the message names the files.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    data = config.data
    path = open_place(data.path, key="data.path")
    if _check_prepared(config, path):
        return
    try:
        files = open_unprepared(path, data.path)
        listing = list_files(files)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        remedy = "name a folder or zip that holds the data; every node must see it"
        raise ConfigError(str(error), key="data.path", value=data.path, remedy=remedy) from None
    refuse(path, listing.problems)
    labels = find_labels(files, listing, data.labels)
    warn_of_folders(files, labels, data.labels)
    _check_labels(config, labels)
    _check_number(config, len(listing.pictures))
    arrange(0, torch.tensor(labels.rows), labels.classes, reading_of(data))
    rules, resolution = rules_of(data), data.resolution
    if isinstance(files, ParquetFiles):
        _check_groups(files, data.cache_mib, data.num_workers)
    names = examined_names(files, listing.pictures)
    headers = _examine(files, names, lambda name: _header(files, name, rules, resolution))
    sample = _sample(names, headers)
    brightest = _examine(files, sample, lambda name: int(decode(read(files, name), resolution, rules).max()))
    deep = [brightest[name] for name in sample if headers[name].is_deep]
    if deep and max(deep) <= DARK and data.range is None:
        _logger.warning("all 16-bit pictures are almost black: if their values end at 4095, set data.range=[0, 4095]")
    _report(listing, labels, headers, len(sample))


def _check_prepared(config: Config, path: Place) -> bool:
    """Check manifest, index, sizes of the shards and some pictures, if it is a prepared set; return whether it is."""
    data = config.data
    remedy = "copy or prepare the set once more"
    try:
        if not is_prepared(path):
            return False
        found = PreparedSet(path)
        check_settings(found.manifest, given_settings(data.resolution, rules_of(data), data.labels), data.path)
        count = len(found)
        rows = sorted({place * count // SAMPLE_OF_BUCKET for place in range(SAMPLE_OF_BUCKET)} - {count})
        contents = Fetcher(found).fetch(rows) if found.is_remote else [found.read(row) for row in rows]
        begin = time.thread_time()
        for row, content in zip(rows, contents, strict=True):
            decode(found.checked(row, content), data.resolution, Rules(channels=found.manifest.channels))
        per_picture = (time.thread_time() - begin) / len(rows)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error), key="data.path", value=data.path, remedy=remedy) from None
    except FileNotFoundError as error:
        message = "no such bucket" if "bucket" in str(error) else f"is incomplete: {error}"
        raise ConfigError(message, key="data.path", value=data.path, remedy=remedy) from None
    labels = Labels(found.index["label"].tolist(), () if data.labels == "none" else found.manifest.classes)
    _check_labels(config, labels)
    _check_number(config, count)
    arrange(0, torch.tensor(labels.rows), labels.classes, reading_of(data))
    classes = f"{len(labels.classes):,} classes" if labels.classes else "no classes"
    _logger.info("%s", f"{count:,} prepared pictures, {classes}; checked: index, shards' sizes, {len(rows):,} pictures")
    speed = max(1, data.num_workers) / max(per_picture, 1e-9)
    _logger.info(
        "%s",
        f"decoding takes {1e3 * per_picture:.2f} ms of a core per picture: at most {speed:,.0f} images/s per worker "
        f"(data.num_workers = {data.num_workers})",
    )
    return True


def _check_groups(files: ParquetFiles, cache_mib: int, num_workers: int) -> None:
    """Warn of row groups that a process cannot keep: each picture would be read with all of its group."""
    share = cache_mib / max(1, num_workers)
    if files.largest_group > share * 2**20:
        _logger.warning(
            "%s",
            f"a row group has {files.largest_group / 2**20:,.0f} MiB of pictures, more than the {share:,.0f} MiB that "
            f"a process keeps (data.cache_mib / data.num_workers): each picture is read with its whole group. Set "
            f"data.shuffle_block={files.group_rows} and a larger data.cache_mib, or use ganscale prepare",
        )


def _header(files: Files, name: str, rules: Rules, resolution: Resolution) -> Header:
    with files.open(name) as file:
        return read_header(file, rules, resolution)


def _check_labels(config: Config, labels: Labels) -> None:
    """Refuse conditional networks without classes; warn of classes without pictures."""
    sides = [side for side in ("generator", "discriminator") if is_conditional(getattr(config.model, side))]
    if sides and not labels.classes:
        raise ConfigError(
            "the pictures have no classes",
            key=f"model.{sides[0]}.conditioning",
            value=getattr(config.model, sides[0]).conditioning,
            remedy="use none, or put the pictures into a folder per class (docs/data.md has other ways)",
        )
    empty = sorted(set(range(len(labels.classes))) - set(labels.rows))
    if empty:
        _logger.warning("%s", f"{len(empty):,} of {len(labels.classes):,} classes have no picture: {empty[:5]}")


def _check_number(config: Config, count: int) -> None:
    if count < 2:
        remedy = "a GAN learns a distribution: name a folder with many pictures, a thousand or more"
        raise ConfigError("holds a single picture", key="data.path", value=config.data.path, remedy=remedy)
    if count < FEW and not config.augment.transforms:
        _logger.warning(
            "%s",
            f"{count:,} pictures are few: the discriminator will memorize them. Set augment.transforms and "
            "augment.adaptive=true, or add pictures",
        )


def _examine(files: Files, names: Sequence[str], look: Callable[[str], T]) -> dict[str, T]:
    """What is found in each picture, on several threads; refuse those in which `look` fails."""
    found: dict[str, T] = {}
    problems: list[tuple[str, str]] = []

    def attempt(name: str) -> T | Exception:
        try:
            return look(name)
        except Exception as error:  # zipfile raises many kinds on damaged input
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for part in _parts(names):
            for name, result in zip(part, pool.map(attempt, part), strict=True):
                if isinstance(result, Exception):
                    problems.append((name, _reason(result)))
                else:
                    found[name] = result
    refuse(files.path, problems)
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    return f"cannot be read: {getattr(error, 'strerror', None) or error or type(error).__name__}"


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def _sample(names: Sequence[str], headers: dict[str, Header]) -> list[str]:
    """Evenly spaced pictures to decode: all, if they are few and small."""
    pixels = sum(header.width * header.height for header in headers.values())
    share = min(1.0, MAX_DECODED / len(names), MAX_DECODED_PIXELS / max(1, pixels))
    count = max(1, int(len(names) * share))
    return [names[index * len(names) // count] for index in range(count)]


def _report(listing: Listing, labels: Labels, headers: dict[str, Header], decoded: int) -> None:
    """Log what was found, and what was done to pictures that are out of the ordinary."""
    count = len(listing.pictures)
    source = "the files" if labels.from_file else "names of folders"
    classes = f"{len(labels.classes):,} classes from {source}" if labels.classes else "no classes"
    others = "the others by their headers" if len(headers) == count else "the others not read"
    checked = "all decoded" if decoded == count else f"{decoded:,} of them decoded, {others}"
    _logger.info("%s", f"{count:,} pictures, {classes}; checked: {checked}")
    archives = [name for name in listing.others if PurePosixPath(name).suffix.lower() in ARCHIVES | {".parquet"}]
    if archives:
        _logger.warning(
            "%s", f"{len(archives):,} archives or tables beside the pictures are left out: {_some(archives)}"
        )
    if len(listing.others) > len(archives):
        others = sorted(set(listing.others) - set(archives))
        _logger.info("%s", f"{len(others):,} other files are left out: {_some(others)}")
    by_remark: dict[str, list[str]] = {}
    for name, header in headers.items():
        for remark in header.remarks:
            by_remark.setdefault(remark, []).append(name)
    for remark, names in by_remark.items():
        _logger.warning("%s", f"{len(names):,} of {count:,} pictures are {remark}: {_some(names)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shown_name, names[:3])) + (", ..." if len(names) > 3 else "")
