"""A source of pictures converted to a prepared set (ganscale/data/prepared.py), its report and its contact sheet."""

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganscale.config import ConfigError
from ganscale.config.datasets import Resolution, as_resolution, height_width, resolution_text
from ganscale.config.errors import ExecutionError
from ganscale.data.files import Files, Listing, list_files, refuse
from ganscale.data.folder import find_channels
from ganscale.data.identity import hash_pictures
from ganscale.data.labels import Labels, Rule, find_labels, warn_of_folders
from ganscale.data.pictures import DEFAULT, Rules, read_header
from ganscale.data.prepared import INDEX, MANIFEST, NAMES, Manifest, PreparedSet, data_hash, store_of
from ganscale.data.shards import open_files
from ganscale.prepare.duplicates import COMPARED, DISTANCE, LEVELS, find_duplicates
from ganscale.prepare.examine import examine_all
from ganscale.prepare.parts import PARTS, Part, part_key, write_shards
from ganscale.storage.store import Place, Store

REPORT, SHEET, BAD = "report.json", "contact_sheet.png", "bad.jsonl"
SETTINGS = f"{PARTS}/settings.json"
TILES = 100
"""Pictures on the contact sheet, evenly spaced."""
_SHOWN_GROUPS = 1000
_TILE = 96


@dataclass(frozen=True)
class Settings:
    """How pictures are converted.

    Attributes:
        resolution: of the images in pixels; None if all pictures are squares of one size, which it then is.
        rules: by which they are read.
        labels: where the classes are from, as `data.labels`.
        shard_size: bytes at which a shard ends.
        workers: processes.
        skip_bad: whether pictures that cannot be read are left out.
    """

    resolution: Resolution | None = None
    rules: Rules = DEFAULT
    labels: Rule = "auto"
    shard_size: int = 100_000_000
    workers: int = 1
    skip_bad: bool = False


def prepare(source: Place, target: Place, settings: Settings, progress: Callable[[int, int, int], None]) -> Any:
    """Convert a source; where the same conversion was interrupted, continue it.

    Args:
        source: folder, zip or shards, or such in a bucket.
        target: folder or prefix of the result.
        settings: how.
        progress: called with the number of examined, of all, and of bad pictures.

    Returns:
        The report, as `report.json` has it.

    Raises:
        ConfigError: the source cannot be read, or the target holds something else.
        ExecutionError: pictures cannot be read and are not to be skipped; `bad.jsonl` lists them.
    """
    store = store_of(target)
    files, listing = _open(source)
    if settings.skip_bad:
        _skip_unlabeled(files, listing, settings.labels)
    refuse(files.path, [] if settings.skip_bad else listing.problems, key="SOURCE")
    names = listing.pictures
    labels = find_labels(files, listing, settings.labels)
    warn_of_folders(files, labels, settings.labels)
    rules = replace(settings.rules, channels=settings.rules.channels or find_channels(files, names, settings.rules))
    resolution = settings.resolution or _common_size(files, names)
    identity = _identity(files, names, labels, rules, resolution, settings)
    if done := _begin(store, target, identity):
        return done
    parts = _earlier_parts(store, skip_bad=settings.skip_bad)
    first = parts[-1].following if parts else 0
    num_bad = sum(len(part.bad) for part in parts)

    def watched() -> Any:
        nonlocal num_bad
        examined = examine_all(files, names[first:], resolution, rules, workers=settings.workers)
        for place, picture in enumerate(examined, first + 1):
            num_bad += bool(picture.problem)
            progress(place, len(names), num_bad)
            yield picture

    parts += write_shards(
        store,
        watched(),
        labels.rows if labels.classes else None,
        channels=rules.channels or 3,
        shard_size=settings.shard_size,
        number=len(parts),
        first=first,
        first_row=sum(len(part.rows) for part in parts),
    )
    bad = [*listing.problems, *chain.from_iterable(part.bad for part in parts)]
    _write_bad(store, bad)
    count = sum(len(part.rows) for part in parts)
    if bad and not settings.skip_bad:
        raise ExecutionError(_bad_text(bad, len(names), target))
    if count < 1:
        raise ConfigError("no picture can be read", key="SOURCE", value=str(source), remedy="name another one")
    return _finish(store, target, parts, labels, bad, rules, resolution, settings, identity)


def _open(source: Place) -> tuple[Files, Listing]:
    """The files of a source, and what lies in it."""
    try:
        files = open_files(source)
        return files, list_files(files)
    except ConfigError:
        raise
    except (ValueError, FileNotFoundError) as error:
        remedy = "name a folder, zip, tars or parquet files of pictures"
        raise ConfigError(str(error), key="SOURCE", value=str(source), remedy=remedy) from None


def _skip_unlabeled(files: Files, listing: Listing, rule: Rule) -> None:
    """Count pictures among the bad ones that have no class beside them, where others have."""
    given = files.labels() if rule == "auto" else None
    unlabeled = dict(given.problems) if given else {}
    listing.problems.extend(unlabeled.items())
    listing.pictures[:] = [name for name in listing.pictures if name not in unlabeled]


def _common_size(files: Files, names: Sequence[str]) -> int:
    """The side of the pictures, if all are squares of one size."""

    def size(name: str) -> tuple[int, int]:
        with suppress(Exception), files.open(name) as file:  # a bad picture is named when it is converted
            header = read_header(file, Rules(range=(0, 1)), 1)
            return header.width, header.height
        return 0, 0

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sizes = set(pool.map(size, names)) - {(0, 0)}
    if len(sizes) == 1:
        width, height = sizes.pop()
        if width == height and 8 <= width <= 1024:
            return width
    found = f"{len(sizes):,} sizes" if len(sizes) > 1 else "no square of 8 to 1024 pixels"
    remedy = "write --resolution N, e.g. 64 or 128, or --resolution HEIGHT WIDTH"
    raise ConfigError(f"the pictures have {found}", key="--resolution", value=None, remedy=remedy)


def _identity(
    files: Files, names: Sequence[str], labels: Labels, rules: Rules, resolution: Resolution, settings: Settings
) -> str:
    """Of a conversion: an interrupted one is only continued as the same."""
    pictures = hash_pictures(files, names, labels, rules, max_read=0)
    return hashlib.sha256(repr((pictures, resolution, settings.shard_size, labels.classes)).encode()).hexdigest()


def _begin(store: Store, target: Place, identity: str) -> Any:
    """Refuse a target that holds something else; the report, if the conversion is done."""
    found = {entry.key for entry in store.list()}
    remedy = "name another folder or prefix, or delete it first"
    if MANIFEST in found:
        report = json.loads(store.get(REPORT)[0])
        if report["conversion"] == identity:
            _tidy(store, target)
            return report
        problem = "holds a prepared set of other pictures or settings"
        raise ConfigError(problem, key="OUT", value=str(target), remedy=remedy)
    own = {key for key in found if key.startswith(f"{PARTS}/") or key in (INDEX, NAMES, REPORT, SHEET, BAD)}
    own |= {key for key in found if key.startswith("shard-") and key.endswith(".tar")}
    known = json.loads(store.get(SETTINGS)[0]) if SETTINGS in found else None
    if found - own or (found and known is None):
        name = min(found - own or found)
        raise ConfigError(f"is not empty: it holds {name}", key="OUT", value=str(target), remedy=remedy)
    if known != identity:
        for key in sorted(own - {SETTINGS}):
            store.delete(key)
        store.put(SETTINGS, json.dumps(identity).encode())
    return None


def _earlier_parts(store: Store, *, skip_bad: bool) -> list[Part]:
    """Those of an interrupted conversion, up to the first that cannot be continued from; the others are deleted."""
    found = {entry.key: entry.size for entry in store.list()}
    parts: list[Part] = []
    while (key := part_key(len(parts))) in found:
        part = Part.from_bytes(store.get(key)[0])
        is_whole = part.shard is not None and found.get(part.shard.name) == part.shard.size
        if not is_whole or (part.bad and not skip_bad):  # they may have been repaired since
            break
        parts.append(part)
    kept = {part_key(number) for number in range(len(parts))} | {part.shard.name for part in parts if part.shard}
    for key in sorted(set(found) - kept - {SETTINGS}):
        store.delete(key)
    return parts


def _write_bad(store: Store, bad: Sequence[tuple[str, str]]) -> None:
    lines = [json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in bad]
    store.put(BAD, "".join(lines).encode())


def _bad_text(bad: Sequence[tuple[str, str]], count: int, target: Place) -> str:
    shown = "".join(f"\n  {name} {reason}" for name, reason in bad[:10])
    more = f"\n  and {len(bad) - 10:,} more" if len(bad) > 10 else ""
    remedy = "repair or remove them and run the same command, or add --skip-bad"
    return f"{len(bad):,} of {count:,} pictures cannot be read ({target}/{BAD}):{shown}{more}\n  remedy: {remedy}"


def _finish(
    store: Store,
    target: Place,
    parts: Sequence[Part],
    labels: Labels,
    bad: Sequence[tuple[str, str]],
    rules: Rules,
    resolution: Resolution,
    settings: Settings,
    identity: str,
) -> Any:
    """Write names, index and report, then the manifest, then the contact sheet."""
    rows = np.concatenate([part.rows for part in parts])
    digests = np.concatenate([part.digests for part in parts])
    names = [name for part in parts for name in part.names]
    store.put(NAMES, "".join(json.dumps(name) + "\n" for name in names).encode())
    store.put(INDEX, rows.tobytes())
    channels = rules.channels or 3
    manifest = Manifest(
        num_images=len(rows),
        resolution=resolution,
        channels=channels,
        classes=labels.classes,
        rules={
            "fit": rules.fit,
            "background": list(rules.background),
            "range": list(rules.range) if rules.range else None,
            "labels": settings.labels,
        },
        shards=tuple(part.shard for part in parts if part.shard),
        index_sha256=hashlib.sha256(rows.tobytes()).hexdigest(),
        data_hash=data_hash(resolution, channels, labels.classes, digests, rows["label"]),
    )
    duplicates = find_duplicates(np.concatenate([part.thumbs for part in parts]), digests)
    values = len(rows) * math.prod(height_width(resolution))
    mean = [int(total) / values for total in sum(part.sums for part in parts)]  # pyright: ignore[reportGeneralTypeIssues]
    squares = [int(total) / values for total in sum(part.squares for part in parts)]  # pyright: ignore[reportGeneralTypeIssues]
    counts = np.bincount(rows["label"], minlength=len(labels.classes)).tolist() if labels.classes else []
    report = {
        "pictures": len(rows),
        "bad": len(bad),
        "resolution": list(resolution) if isinstance(resolution, tuple) else resolution,
        "channels": channels,
        "bytes": sum(shard.size for shard in manifest.shards),
        "shards": len(manifest.shards),
        "classes": dict(zip(labels.classes, counts, strict=True)),
        "mean": mean,
        "std": [math.sqrt(max(0.0, s - m * m)) for s, m in zip(squares, mean, strict=True)],
        "equal": duplicates.num_equal,
        "near_duplicates": {
            "rule": f"64-bit dHash within {DISTANCE} bits and thumbnails within {LEVELS:g} levels on average; each "
            f"picture compared with the next {COMPARED} of each 16-bit band",
            "complete": duplicates.is_complete,
            "groups": len(duplicates.groups),
            "pictures": sum(map(len, duplicates.groups)),
            "names": [[names[row] for row in group] for group in duplicates.groups[:_SHOWN_GROUPS]],
        },
        "data_hash": manifest.data_hash,
        "conversion": identity,
    }
    store.put(REPORT, (json.dumps(report, indent=1) + "\n").encode())
    store.put(MANIFEST, manifest.as_text().encode())
    _tidy(store, target)
    return report


def _tidy(store: Store, target: Place) -> None:
    """What follows the manifest: the contact sheet, and deleting the part files."""
    found = {entry.key for entry in store.list()}
    if SHEET not in found:
        store.put(SHEET, _contact_sheet(PreparedSet(target)))
    for key in sorted(found):
        if key.startswith(f"{PARTS}/"):
            store.delete(key)
    if isinstance(target, Path):
        with suppress(OSError):
            (target / PARTS).rmdir()


def _contact_sheet(pictures: PreparedSet) -> bytes:
    """Evenly spaced pictures, side by side."""
    count = min(TILES, len(pictures))
    columns = math.ceil(math.sqrt(count))
    height, width = height_width(pictures.manifest.resolution)
    share = min(1.0, _TILE / max(height, width))
    height, width = max(1, round(height * share)), max(1, round(width * share))
    sheet = Image.new("RGB", (columns * (width + 2), math.ceil(count / columns) * (height + 2)), (255, 255, 255))
    for tile in range(count):
        row = tile * len(pictures) // count
        with Image.open(io.BytesIO(pictures.checked(row, pictures.read(row)))) as picture:
            small = picture.convert("RGBA").resize((width, height), Image.Resampling.LANCZOS)
        place = (tile % columns * (width + 2) + 1, tile // columns * (height + 2) + 1)
        sheet.paste(small.convert("RGB"), place, small)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def as_text(report: dict[str, Any], target: str) -> str:
    """The report for the terminal.

    Args:
        report: as `report.json` has it.
        target: where the set lies.
    """
    near, classes = report["near_duplicates"], report["classes"]
    sides, resolution = as_resolution(report["resolution"]), str(report["resolution"]).replace(" ", "")

    def numbers(values: Sequence[float]) -> str:
        return ", ".join(f"{value:.2f}" for value in values)

    lines = [
        f"{report['pictures']:,} pictures of {resolution_text(sides)} pixels, {report['channels']} channels; "
        f"{report['bytes'] / 1e6:,.1f} MB in {report['shards']:,} shards; {report['bad']:,} bad ones left out",
        f"mean {numbers(report['mean'])}, standard deviation {numbers(report['std'])} (of 0 to 255, by channel)",
        f"{report['equal']:,} pictures have the pixels of another one; {near['pictures']:,} near duplicates in "
        f"{near['groups']:,} groups" + ("" if near["complete"] else " at least (very many look alike)"),
    ]
    if classes:
        ordered = sorted(classes.items(), key=lambda pair: (-pair[1], pair[0]))
        shown = ", ".join(f"{name} {count:,}" for name, count in ordered[:10])
        lines.append(f"{len(classes):,} classes: {shown}" + (", ..." if len(ordered) > 10 else ""))
    lines += [f"data hash {report['data_hash']}", f"{target}/{REPORT}, {target}/{SHEET}"]
    lines.append(f"train: ganscale train CONFIG data.name=folder data.path={target} data.resolution={resolution}")
    return "\n".join(lines)
