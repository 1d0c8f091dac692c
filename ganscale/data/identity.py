"""Whether a data set is still the one that a run began with: a hash of its index, its labels and of content.

The rule, also in docs/data.md: all names, sizes and labels; of a zip the CRC-32 of every entry, which its directory
holds; of folders, tars and parquet files the whole content of up to `MAX_READ` pictures, those whose names, in parquet
files those whose row groups' names, have the smallest SHA-256. Times of modification are left out: a copy of a data set
is the same data set.
"""

import hashlib
import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ganscale.config import ConfigError
from ganscale.data.files import Files, read, shown_name
from ganscale.data.labels import Labels
from ganscale.data.pictures import Rules

RULE = 2
"""Number of the rule: hashes by other rules are not compared. 1 was names and sizes alone."""
MAX_READ = 1000
"""Files of a folder whose content is read, at most."""
_READERS = 8
_PART = 1024


def hash_pictures(
    files: Files, names: Sequence[str], labels: Labels, rules: Rules, *, max_read: int | None = None
) -> str:
    """SHA-256 of a set of pictures by the rule above, and of how they are decoded.

    Args:
        files: of the folder, zip or shards.
        names: of the pictures, sorted.
        labels: of the pictures.
        rules: how a picture becomes an image.
        max_read: files of a folder whose content is read; by default `MAX_READ`.

    Raises:
        ConfigError: a file that has to be read cannot be; the message names it.
    """
    digest = hashlib.sha256(repr((RULE, rules, labels.rows)).encode())
    unread = [name for name in names if not files.checksum(name)]
    most = MAX_READ if max_read is None else max_read
    chosen = sorted(heapq.nsmallest(most, unread, key=lambda name: hashlib.sha256(files.unit(name).encode()).digest()))

    def entries(start: int) -> bytes:
        part = names[start : start + _PART]
        return repr([(name, files.size(name), files.checksum(name)) for name in part]).encode()

    def content(name: str) -> bytes:
        try:
            return hashlib.sha256(read(files, name)).digest()
        except (OSError, ValueError) as error:
            problem = f"cannot read the picture {shown_name(name)}: it {error}"
            raise ConfigError(problem, key="data.path", value=str(files.path), remedy="repair or remove it") from None

    with ThreadPoolExecutor(_READERS) as pool:  # for storage whose answers take long
        for found in (*pool.map(entries, range(0, len(names), _PART)), *pool.map(content, chosen)):
            digest.update(found)
    return digest.hexdigest()
