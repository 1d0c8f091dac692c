"""Pictures of a folder written as tars of a webdataset, and as parquet files."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def _parts(folder: Path, count: int) -> Sequence[Sequence[Path]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [paths[number * len(paths) // count : (number + 1) * len(paths) // count] for number in range(count)]


def write_tars(folder: Path, target: Path, count: int = 3, *, with_classes: bool = True) -> Path:
    """Tars of the pictures in the order of their names, with the number of the folder as class."""
    target.mkdir()
    classes = sorted({path.parent.name for path in folder.rglob("*") if path.is_file()})
    for number, paths in enumerate(_parts(folder, count)):
        with tarfile.open(target / f"{number:05d}.tar", "w") as archive:
            for path in paths:
                name = path.relative_to(folder)
                archive.add(path, name)
                if with_classes:
                    content = str(classes.index(path.parent.name)).encode()
                    entry = tarfile.TarInfo(str(name.with_suffix(".cls")))
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return target


def write_parquet(folder: Path, target: Path, count: int = 2, *, rows: int = 4) -> Path:
    """Parquet files of the pictures in the order of their names, as Hugging Face's datasets writes them."""
    target.mkdir()
    classes = sorted({path.parent.name for path in folder.rglob("*") if path.is_file()})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": classes}}
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for number, paths in enumerate(_parts(folder, count)):
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
        labels = [classes.index(path.parent.name) for path in paths]
        table = pa.table({"image": pa.array(images, struct), "label": pa.array(labels, pa.int64())})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, target / f"train-{number:05d}-of-{count:05d}.parquet", row_group_size=rows)
    return target
