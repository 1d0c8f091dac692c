"""Pictures in a column of parquet files, as Hugging Face's datasets writes them; a row group is read at a time."""

import io
import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from ganscale.data.files import Files, Given, Listing, check_size, open_at, refuse
from ganscale.data.pictures import IS_LFS_POINTER, LFS_POINTER
from ganscale.storage.store import Place

LABEL_COLUMNS = ("label", "labels", "class", "cls")
"""Names by which a column of classes is known where the schema names none."""
DEFAULT_CACHE = 256 * 2**20
OPEN = 64
"""Files that are open at a time."""


@dataclass(frozen=True)
class Columns:
    """What the schema of a parquet file says.

    Attributes:
        image: name of the column of pictures.
        labels: names of columns of classes; several are in doubt.
        classes: names of classes 0, 1, ... that the schema has.
        types: of these columns, which all files share.
    """

    image: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    types: str


def find_columns(schema: Any) -> Columns:
    """The columns of pictures and classes: by the features of Hugging Face's metadata, otherwise by type and name.

    Args:
        schema: a `pyarrow.Schema`.

    Raises:
        ValueError: no column holds pictures, or several may.
    """
    features = _features(schema.metadata or {})
    known = {name: feature for name, feature in features.items() if name in schema.names and isinstance(feature, dict)}
    images = [name for name, feature in known.items() if feature.get("_type") == "Image"]
    images = images or [field.name for field in schema if _holds_bytes(field.type)]
    if len(images) != 1:
        raise ValueError(_image_problem(schema, images))
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("has two columns of one name")
    image = images[0]
    if not _holds_bytes(schema.field(image).type):
        raise ValueError(f"holds no pictures in {image}, but {schema.field(image).type}")
    labels = [name for name, feature in known.items() if feature.get("_type") == "ClassLabel"]
    labels = labels or [name for name in schema.names if name.lower() in LABEL_COLUMNS and name != image]
    names = known.get(labels[0], {}).get("names") if len(labels) == 1 else None
    classes = tuple(map(str, names)) if isinstance(names, list) else ()
    types = ", ".join(f"{name}: {schema.field(name).type}" for name in (image, *labels))
    return Columns(image, tuple(labels), classes, types)


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Hugging Face's features by column."""
    if b"huggingface" not in metadata:
        return {}
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
        return found if isinstance(found, dict) else {}
    except KeyError:
        return {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"has damaged metadata of Hugging Face: {error}") from None


def _holds_bytes(kind: Any) -> bool:
    """Whether a column of a type may hold pictures."""
    import pyarrow.types as types

    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_binary(kind.field(place).type)
    return _is_binary(kind.value_type if types.is_dictionary(kind) else kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _image_problem(schema: Any, images: Sequence[str]) -> str:
    import pyarrow.types as types

    if images:
        return f"has several columns of pictures: {', '.join(images)}; drop all but one"
    for field in schema:
        if types.is_nested(field.type) and not types.is_struct(field.type) and _holds_bytes(field.type.field(0).type):
            return f"holds lists of pictures in {field.name}; write one picture per row"
        if types.is_string(field.type) and field.name.lower() in ("image", "img", "path", "file", "file_name", "url"):
            return f"holds paths in {field.name}, not pictures; embed them, or name the folder of pictures"
    return f"has no column of pictures, that is of bytes; it has {', '.join(schema.names[:10]) or 'none'}"


class ParquetFiles(Files):
    """The pictures of parquet files, called FILE/ROW. The row groups read last are kept within `cache_bytes`.

    Args:
        path: `data.path`, for messages.
        base: the folder or prefix that holds the files.
        shards: their names below it, sorted.
        others: names of files beside them.

    Attributes:
        cache_bytes: of row groups that a process keeps; one is always kept.
        largest_group: bytes of the pictures of the largest row group.
        group_rows: rows of the row group that has most.
    """

    def __init__(self, path: Place, base: Place, shards: Sequence[str], others: Sequence[str] = ()) -> None:
        self.path, self._base, self.shards = path, base, shards
        self.cache_bytes = DEFAULT_CACHE
        self._process = 0
        self._listing = Listing(others=list(others))
        self._columns: dict[str, Columns] = {}
        self._starts: dict[str, list[int]] = {}
        self._sizes: dict[str, list[int]] = {}
        self.largest_group = self.group_rows = 0
        for shard in shards:
            try:
                self._examine(shard)
            except ValueError as error:
                self._listing.problems.append((shard, str(error)))

    def _examine(self, shard: str) -> None:
        """Read a file's footer."""
        file = self._opened(shard)
        metadata, columns = file.metadata, find_columns(file.schema_arrow)
        first = next(iter(self._columns), None)
        if first and (columns.types, columns.classes) != (self._columns[first].types, self._columns[first].classes):
            what = f"has {columns.types}" if columns.types != self._columns[first].types else "names other classes"
            raise ValueError(f"{what}, unlike {first} with {self._columns[first].types}")
        if metadata.num_rows == 0:
            raise ValueError("holds no row")
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        paths = [f"{metadata.schema.column(number).path}." for number in range(metadata.num_columns)]
        leaves = [number for number, path in enumerate(paths) if path.startswith(f"{columns.image}.")]
        sizes = [sum(group.column(number).total_uncompressed_size for number in leaves) for group in groups]
        self._columns[shard], self._sizes[shard] = columns, sizes
        self._starts[shard] = [0, *accumulate(group.num_rows for group in groups)]
        self.largest_group = max(self.largest_group, *sizes)
        self.group_rows = max(self.group_rows, *(group.num_rows for group in groups))
        self._listing.pictures.extend(f"{shard}/{row:09d}" for row in range(metadata.num_rows))

    def _opened(self, shard: str) -> Any:
        """The file, opened by this process; a file that is opened may close another one."""
        import pyarrow.parquet as pq

        self._enter()
        if shard in self._files:
            return self._files[shard]
        place = self._base / shard
        with self._damage("is no parquet file, damaged or incomplete"):
            with open_at(place) as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise ValueError(IS_LFS_POINTER)
            source: Any = str(place) if isinstance(place, Path) else open_at(place)
            found = pq.ParquetFile(source, pre_buffer=False)
        self._files[shard] = found
        while len(self._files) > OPEN:
            self._files.popitem(last=False)[1].close()
        return found

    @contextmanager
    def _damage(self, problem: str) -> Iterator[None]:
        """Raise ValueError for what the file itself is to blame for, not for a bucket that fails."""
        import pyarrow as pa

        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and not isinstance(self._base, Path):
                raise
            raise ValueError(f"{problem}: {error}") from None

    def _enter(self) -> None:
        """Forget in a forked process what belongs to the other one."""
        if self._process != os.getpid():
            self._process, self._lock = os.getpid(), threading.Lock()
            self._files: OrderedDict[str, Any] = OrderedDict()
            self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def _group_of(self, name: str) -> tuple[str, int, int]:
        """File, row group, and row in it."""
        shard, _, row = name.rpartition("/")
        starts = self._starts[shard]
        group = bisect_right(starts, int(row)) - 1
        return shard, group, int(row) - starts[group]

    def _read_group(self, shard: str, group: int) -> Any:
        """The pictures of a row group, from memory if they are there."""
        self._enter()
        with self._lock:
            if (shard, group) in self._groups:
                self._groups.move_to_end((shard, group))
                return self._groups[shard, group]
            with self._damage(f"lies in a damaged row group ({group})"):
                image = self._columns[shard].image
                found = self._opened(shard).read_row_group(group, columns=[image], use_threads=False).column(image)
            self._groups[shard, group] = found
            while len(self._groups) > 1 and sum(each.nbytes for each in self._groups.values()) > self.cache_bytes:
                self._groups.popitem(last=False)
            return found

    def listing(self) -> Listing:
        """The pictures by name (part of `Files`)."""
        return Listing(list(self._listing.pictures), list(self._listing.problems), [], list(self._listing.others))

    def walk(self) -> Iterator[tuple[str, str]]:
        """Every picture's name (part of `Files`)."""
        yield from ((name, "") for name in self._listing.pictures)
        yield from self._listing.problems

    def open(self, name: str) -> IO[bytes]:
        """A picture (part of `Files`)."""
        shard, group, row = self._group_of(name)
        value = self._read_group(shard, group)[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            path = value.get("path") if value else None
            hint = f", only the path {path}; embed the pictures" if path else ""
            raise ValueError(f"has no picture{hint}")
        check_size(len(content))
        return io.BytesIO(content)

    def size(self, name: str) -> int:
        """Of the pictures of its row group, which bounds the picture's own (part of `Files`)."""
        shard, group, _ = self._group_of(name)
        return self._sizes[shard][group]

    def unit(self, name: str) -> str:
        """Its row group (part of `Files`)."""
        shard, group, _ = self._group_of(name)
        return f"{shard}/{group}"

    def inner_name(self, name: str) -> str:
        """Its row: folders of files are no classes (part of `Files`)."""
        return name.rpartition("/")[2]

    def labels(self) -> Given | None:
        """From the column of classes, if there is one (part of `Files`)."""
        columns = next(iter(self._columns.values()), None)
        if columns is None or not columns.labels:
            return None
        if len(columns.labels) > 1:
            problem = f"has several columns of classes: {', '.join(columns.labels)}"
            refuse(self.path, [(self.shards[0], problem)], remedy="drop all but one, or set data.labels=none")
        column = next(iter(columns.labels))
        found: list[Any] = []
        for shard in self._columns:
            try:
                with self._damage(f"has a damaged column {column}"):
                    found += self._opened(shard).read(columns=[column], use_threads=False).column(column).to_pylist()
            except ValueError as error:
                refuse(self.path, [(shard, str(error))], remedy="copy it once more, or set data.labels=none")
        values = dict(zip(self._listing.pictures, found, strict=True))
        missing = [name for name, value in values.items() if value is None]
        if len(missing) == len(values):
            return None
        return Given(values, [(name, f"has no {column}") for name in missing], columns.classes)

    def __getstate__(self) -> dict[str, Any]:
        kept = {**self.__dict__, "_process": 0}
        return {name: value for name, value in kept.items() if name not in ("_lock", "_files", "_groups")}
