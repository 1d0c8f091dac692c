"""Tars and parquet files that are out of the ordinary, with what must become of each."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.odd_inputs import GRAY, HEIC, LFS, ORDINARY, RED, Case, encoded, plain, truncated, write

Build = Callable[[Path], Path | None]
A, B = encoded(plain(RED)), ORDINARY
PAIR = {"a.png": A, "b.png": B}


def tar(entries: Mapping[str, bytes | tarfile.TarInfo], **options: Any) -> bytes:
    """A tar with these entries: contents by name, or headers without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name) if isinstance(content, bytes) else content
            entry.name = name
            entry.size = len(content) if isinstance(content, bytes) else 0
            archive.addfile(entry, io.BytesIO(content if isinstance(content, bytes) else b""))
    return buffer.getvalue()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.linkname = kind, target
    return entry


def shards(files: Mapping[str, bytes], path: str = "") -> Build:
    """A folder with these files; `data.path` is it, or a path below it."""

    def build(folder: Path) -> Path:
        write(folder, files)
        return folder / path

    return build


def tars(entries: Mapping[str, bytes | tarfile.TarInfo], **options: Any) -> Build:
    """A folder with one tar."""
    return shards({"0.tar": tar(entries, **options)})


def twice(name: str, first: bytes, second: bytes) -> bytes:
    """A tar in which a name stands twice."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for content in (first, second):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def classed(ending: str, *values: bytes | None) -> Build:
    """A tar of pictures a, b, ... with these files of classes beside them."""
    entries: dict[str, bytes | tarfile.TarInfo] = {}
    for key, value in zip("abcdefg", values, strict=False):
        entries[f"{key}.png"] = B
        if value is not None:
            entries[f"{key}.{ending}"] = value
    return tars(entries)


PICTURES = [{"bytes": A, "path": "1.png"}, {"bytes": B, "path": None}]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def parquet(columns: Mapping[str, Any], features: Any = None, **options: Any) -> bytes:
    """A parquet file with these columns."""
    table = pa.table(dict(columns))
    if features is not None:
        content = features if isinstance(features, bytes) else json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": content})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def images(values: Sequence[Any] = PICTURES, kind: Any = STRUCT) -> Any:
    return pa.array(values, kind)


def table(columns: Mapping[str, Any], features: Any = None, **options: Any) -> Build:
    """A folder with one parquet file."""
    return shards({"0.parquet": parquet(columns, features, **options)})


def labeled(values: Any, features: Any = None) -> Build:
    """Two pictures and a column `label`."""
    return table({"image": images(), "label": values}, features)


IMAGE = {"_type": "Image"}
CATS = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}}
TWO = parquet({"image": images()})
INDEX = {"__kind__": "wids-shard-index-v1", "wids_version": 1}
LONG = "x" * 150


def wids(*shardlist: tuple[str, int]) -> bytes:
    return json.dumps({**INDEX, "shardlist": [{"url": url, "nsamples": n} for url, n in shardlist]}).encode()


def broken(content: bytes) -> bytes:
    """A parquet file whose pages are damaged."""
    return content[:8] + bytes(60) + content[68:]


TARS = [
    Case("tar as `data.path`", shards({"0.tar": tar(PAIR)}, "0.tar"), "its pictures", RED),
    Case("folder of tars", shards({"0.tar": tar(PAIR), "1.tar": tar({"a.png": B})}), "all pictures", RED),
    Case("tars in folders", shards({"x/0.tar": tar(PAIR), "y/0.tar": tar({"a.png": B})}), "all pictures", RED),
    Case("tar with ./ before names", tars({"./a.png": A, "./b.png": B}), "as without", RED),
    Case("tar of folders", tars({"x/1.png": A, "y/1.png": B}), "as the folder", RED, labels=(0, 1)),
    Case("tar of folders, two deep", tars({"x/1/1.png": A, "y/2/1.png": B}), "refused", names="x/1/1.png"),
    Case("tar of pictures beside folders", tars({"1.png": A, "y/1.png": B}), "refused", names="0.tar/1.png"),
    Case("tar with GNU's long names", tars({f"{LONG}.png": A, "z.png": B}, format=tarfile.GNU_FORMAT), "as any", RED),
    Case("tar with pax headers", tars({f"{LONG}ä.png": A, "z.png": B}, format=tarfile.PAX_FORMAT), "as any other", RED),
    Case("tar in the format of 1988", tars(PAIR, format=tarfile.USTAR_FORMAT), "as any other", RED),
    Case(
        "tar with names in Unicode",
        tars({"ä b.png": A, "日.png": B, "日.cls": b"1", "ä b.cls": b"0"}),
        "as any other",
        RED,
        labels=(0, 1),
    ),
    Case(
        "tar with a name that is not UTF-8", tars({"a\udcff.png": b"", "b.png": B}), "refused: escaped", names=r"\udcff"
    ),
    Case(
        "tar with upper-case endings",
        tars({"a.PNG": A, "a.CLS": b"1", "b.JPG": B, "b.Cls": b"0"}),
        "as any other",
        RED,
        labels=(1, 0),
    ),
    Case("tar with hidden files", tars({"._a.png": b"", "__MACOSX/b.png": b"", **PAIR}), "left out", RED),
    Case(
        "tar with folders' own entries",
        tars({"x": special(tarfile.DIRTYPE), "x/a.png": A, "x/b.png": B}),
        "as any",
        RED,
    ),
    Case(
        "tar with captions (`.txt`, `.json`)",
        tars(
            {"a.png": A, "a.txt": b"red", "a.json": b'{"caption": "red"}', "b.png": B, "b.txt": b"b", "b.json": b"{}"}
        ),
        "no classes",
        RED,
    ),
    Case(
        "keys with dots",
        tars({"1.5.png": A, "1.5.cls": b"1", "2.5.png": B, "2.5.cls": b"0"}),
        "a key ends at the first dot",
        RED,
        labels=(1, 0),
    ),
    Case(
        "several pictures of a key",
        tars({"a.left.png": A, "a.right.png": B, "b.png": B}),
        "refused",
        names="a.right.png is a second picture of the key a",
    ),
    Case("several endings of a key", tars({"a.jpg": A, "a.png": B, "b.png": B}), "refused", names="a.png"),
    Case(
        "name twice in a tar", shards({"0.tar": twice("a.png", A, B)}), "refused", names="a.png stands in the tar twice"
    ),
    Case(
        "same keys in two tars", shards({"0.tar": tar({"a.png": A}), "1.tar": tar({"a.png": B})}), "two pictures", RED
    ),
    Case("`.cls` with numbers", classed("cls", b"2", b"0\n", b"1"), "classes", labels=(2, 0, 1)),
    Case("`.cls` with names", classed("cls", b"dog", b"cat", b"dog"), "in the order of names", labels=(1, 0, 1)),
    Case("`.cls` with names and numbers", classed("cls", b"1", b"cat"), "refused", names="b.png"),
    Case("`.cls` with a negative class", classed("cls", b"-1", b"0"), "refused"),
    Case("`.cls` that is empty", classed("cls", b"1", b" \n"), "refused", names="b.png"),
    Case("`.cls` that is not UTF-8", classed("cls", b"1", b"\xff\xfe\xff"), "refused", names="b.png"),
    Case("`.cls` that is missing", classed("cls", b"1", None), "refused", names="b.png"),
    Case(
        "`.cls` that is missing, `data.labels=none`",
        classed("cls", b"1", None),
        "no classes",
        settings=("data.labels=none",),
    ),
    Case(
        "`.cls` that is a link",
        tars({"a.png": A, "a.cls": b"1", "b.png": B, "b.cls": special(tarfile.SYMTYPE, "a.cls")}),
        "refused",
        names="b.png",
    ),
    Case(
        "`.cls` without a picture",
        tars({**PAIR, "a.cls": b"0", "b.cls": b"1", "c.cls": b"1"}),
        "refused",
        names="c.cls",
    ),
    Case(
        "`.json` without a picture",
        tars({**PAIR, "a.json": b"{}", "b.json": b"{}", "c.json": b"{}"}),
        "refused",
        names="c.json",
    ),
    Case("`.json` with `label`", classed("json", b'{"label": 1, "x": 5}', b'{"label": 0}'), "classes", labels=(1, 0)),
    Case(
        "`.json` with `class` as names",
        classed("json", b'{"class": "b"}', b'{"class": "a"}'),
        "in the order of names",
        labels=(1, 0),
    ),
    Case(
        "`.json` with `label` and `class`",
        classed("json", b'{"label": 1, "class": 2}', b'{"label": 0}'),
        "refused",
        names="class and as label",
    ),
    Case(
        "`.json` without `label` among others",
        classed("json", b'{"label": 1}', b'{"caption": "x"}'),
        "refused",
        names="b.png",
    ),
    Case("`.json` with `label` null", classed("json", b'{"label": 1}', b'{"label": null}'), "refused", names="b.png"),
    Case("`.json` that is damaged", classed("json", b'{"label": 1}', b'{"label": '), "refused", names="b.png"),
    Case(
        "`.cls` beside `.json`",
        tars({**PAIR, "a.cls": b"1", "b.cls": b"0", "a.json": b'{"label": 0}', "b.json": b"{}"}),
        "`.cls` counts",
        RED,
        labels=(1, 0),
    ),
    Case(
        "tar with dataset.json",
        tars({**PAIR, "dataset.json": b'{"labels": [["a.png", 1], ["b.png", 0]]}'}),
        "its classes",
        RED,
        labels=(1, 0),
    ),
    Case(
        "tar with dataset.json, pictures in `00000/`",
        tars(
            {
                "00000/a.png": A,
                "00000/b.png": B,
                "dataset.json": b'{"labels": [["00000/a.png", 1], ["00000/b.png", 0]]}',
            }
        ),
        "its classes",
        RED,
        labels=(1, 0),
    ),
    Case(
        "tar with dataset.json beside the folder of pictures",
        tars({"x/a.png": A, "x/b.png": B, "y/dataset.json": b'{"labels": []}'}),
        "refused: name that folder",
        names="0.tar/y/dataset.json is not at the top",
    ),
    Case(
        "tar with dataset.json in one of two",
        shards({"0.tar": tar({**PAIR, "dataset.json": b'{"labels": [["a.png", 1]]}'}), "1.tar": tar(PAIR)}),
        "refused",
        names="0.tar/dataset.json",
    ),
    Case("tar with a symbolic link", tars({"a.png": special(tarfile.SYMTYPE, "b.png"), "b.png": B}), "refused"),
    Case(
        "tar with a hard link", tars({"b.png": B, "c.png": special(tarfile.LNKTYPE, "b.png")}), "refused", names="c.png"
    ),
    Case("tar with a linked folder", tars({**PAIR, "x": special(tarfile.SYMTYPE, "y")}), "refused", names="0.tar/x"),
    Case("tar with a named pipe", tars({"a.png": special(tarfile.FIFOTYPE), "b.png": B}), "refused"),
    Case("tar with an empty picture", tars({"a.png": b"", "b.png": B}), "refused", names="0.tar/a.png"),
    Case("tar with a truncated picture", tars({"a.png": truncated("PNG"), "b.png": B}), "refused", names="0.tar/a.png"),
    Case(
        "tar with HEIC",
        tars({"a.heic": HEIC, "b.png": B}),
        "refused: install `ganscale[heif]`",
        names="a.heic",
        without=("has_heif",),
    ),
    Case("tar with .npy beside pictures", tars({**PAIR, "a.npy": b"x", "b.npy": b"x"}), "left out", RED),
    Case("tar with a picture without an ending", tars({"a": A, "b.png": B}), "refused: rename it", names="0.tar/a "),
    Case("tar without pictures", tars({"a.txt": b"text"}), "refused", names="0.tar"),
    Case(
        "tar without pictures among others",
        shards({"0.tar": tar(PAIR), "1.tar": tar({"a.txt": b"x"})}),
        "refused",
        names="1.tar",
    ),
    Case("empty tar among others", shards({"0.tar": tar(PAIR), "1.tar": tar({})}), "refused", names="1.tar"),
    Case("tar of no bytes", shards({"0.tar": tar(PAIR), "1.tar": b""}), "refused", names="1.tar is empty"),
    Case("tar truncated in a picture", shards({"0.tar": tar(PAIR)[:600]}), "refused", names="0.tar"),
    Case("tar truncated between pictures", shards({"0.tar": tar(PAIR)[:2048]}), "refused", names="0.tar is incomplete"),
    Case("tar truncated in a header", shards({"0.tar": tar(PAIR)[:1100]}), "refused", names="0.tar"),
    Case(
        "tar with a damaged header", shards({"0.tar": tar(PAIR).replace(b"b.png", b"c.png")}), "refused", names="0.tar"
    ),
    Case(
        "tars joined by cat",
        shards({"0.tar": tar(PAIR) + tar({"c.png": B})}),
        "refused: take them apart",
        names="0.tar",
    ),
    Case("gzipped tar named .tar", shards({"0.tar": gzip.compress(tar(PAIR))}), "refused: unpack it", names="gzip"),
    Case("tar.gz", shards({"0.tar.gz": gzip.compress(tar(PAIR))}, "0.tar.gz"), "refused: unpack it", names="0.tar.gz"),
    Case("tar.gz beside tars", shards({"0.tar": tar(PAIR), "1.tar.gz": b"x"}), "refused: unpack it", names="1.tar.gz"),
    Case("folder of tgz", shards({"0.tgz": b"x", "1.tgz": b"x"}), "refused: unpack it", names="0.tgz"),
    Case("tar that is a pointer of Git LFS", shards({"0.tar": LFS}), "refused: run git lfs pull", names="git lfs"),
    Case("text named .tar", shards({"0.tar": b"no tar" * 200}), "refused", names="0.tar"),
    Case(
        "index of wids (`index.json`)",
        shards({"0.tar": tar(PAIR), "index.json": wids(("0.tar", 2)), "0.index": b"x"}),
        "checked",
        RED,
    ),
    Case(
        "index of wids with a missing tar",
        shards({"0.tar": tar(PAIR), "index.json": wids(("0.tar", 2), ("1.tar", 2))}),
        "refused",
        names="1.tar",
    ),
    Case(
        "index of wids with another number",
        shards({"0.tar": tar(PAIR), "index.json": wids(("0.tar", 3))}),
        "refused",
        names="0.tar has 2 pictures",
    ),
    Case(
        "tars of img2dataset (table and statistics beside)",
        shards({"00000.tar": tar(PAIR), "00000.parquet": b"a table", "00000_stats.json": b"{}"}),
        "tables left out",
        RED,
    ),
    Case(
        "tars beside other parquet files", shards({"0.tar": tar(PAIR), "x.parquet": TWO}), "refused", names="x.parquet"
    ),
    Case(
        "pictures beside tars",
        shards({"0.tar": tar(PAIR), "a.png": A, "b.png": B}),
        "tars left out, with a warning",
        RED,
    ),
    Case(
        "tars of several splits",
        shards({"train-0.tar": tar(PAIR), "val-0.tar": tar(PAIR)}),
        "refused: choose one by a pattern",
        names="train-0.tar",
    ),
    Case(
        "tars of several splits, `data.path=FOLDER/train-*`",
        shards({"train-0.tar": tar(PAIR), "val-0.tar": b""}, "train-*.tar"),
        "those that match",
        RED,
    ),
    Case(
        "hidden file that matches the pattern",
        shards({"a.tar": tar(PAIR), "._a.tar": b"of a system"}, "*.tar"),
        "left out",
        RED,
    ),
    Case(
        "pattern that also matches other files",
        shards({"a.parquet": TWO, "b.tar": tar(PAIR), "c.txt": b"text"}, "*"),
        "refused",
        names="also matches c.txt",
    ),
    Case(
        "pattern that matches tars and parquet files",
        shards({"a.parquet": TWO, "b.tar": tar(PAIR)}, "*"),
        "refused",
        names="also matches a.parquet",
    ),
    Case("pattern without a match", shards({"train-0.tar": tar(PAIR)}, "test-*.tar"), "refused", names="test-*.tar"),
    Case("pattern of pictures", shards(PAIR, "*.png"), "refused", names="*.png"),
]

TARS += [
    Case("several `.cls` of a key", tars({**PAIR, "a.cls": b"0", "a.fine.cls": b"1", "b.cls": b"1"}), "refused"),
    Case(
        "several `.json` of a key, one with a class",
        tars({**PAIR, "a.json": b'{"label": 1}', "a.meta.json": b"{}", "b.json": b'{"label": 0}'}),
        "that one counts",
        RED,
        labels=(1, 0),
    ),
    Case(
        "tars of an unfinished `ganscale prepare`",
        shards({"shard-00000.tar": tar(PAIR), "parts/settings.json": b"1"}),
        "refused: run it once more",
        names="parts/settings.json",
    ),
    Case(
        "tars of a prepared set without its manifest",
        shards({"shard-00000.tar": tar(PAIR), "index.bin": b"1", "names.jsonl": b"1"}),
        "refused: run it once more",
        names="index.bin",
    ),
]

PARQUETS = [
    Case("parquet of Hugging Face", labeled([2, 0], CATS), "its classes", RED, labels=(2, 0), num_classes=3),
    Case("parquet as `data.path`", shards({"0.parquet": TWO}, "0.parquet"), "its pictures", RED),
    Case(
        "parquet without metadata", table({"image": images(), "label": [1, 0]}), "by type and name", RED, labels=(1, 0)
    ),
    Case("column of plain bytes", table({"image": images([A, B], pa.binary())}), "its pictures", RED),
    Case("column of another name", table({"jpg": images([A, B], pa.binary())}), "its pictures", RED),
    Case("`large_binary`", table({"image": images([A, B], pa.large_binary())}), "its pictures", RED),
    Case(
        "struct with `large_binary`",
        table({"image": images(PICTURES, pa.struct({"bytes": pa.large_binary()}))}),
        "its pictures",
        RED,
    ),
    Case(
        "pictures by a dictionary",
        table({"image": images([A, B], pa.binary()).dictionary_encode()}),
        "its pictures",
        RED,
    ),
    *(
        Case(f"compression {kind}", table({"image": images()}, compression=kind), "its pictures", RED)
        for kind in ("zstd", "gzip", "brotli", "none")
    ),
    Case("version 2 data pages", table({"image": images()}, data_page_version="2.0"), "its pictures", RED),
    Case(
        "row groups of one row",
        table({"image": images(), "label": [0, 1]}, row_group_size=1),
        "its pictures",
        RED,
        labels=(0, 1),
    ),
    Case(
        "other columns",
        table({"id": [7, 8], "image": images(), "caption": ["a", "b"], "size": [1.5, None]}),
        "left out",
        RED,
    ),
    Case(
        "files of a series",
        shards(
            {"data/train-00000-of-00002.parquet": TWO, "data/train-00001-of-00002.parquet": TWO, "README.md": b"text"}
        ),
        "all pictures",
        RED,
    ),
    Case(
        "series with a missing file",
        shards({"train-00000-of-00002.parquet": TWO}),
        "refused",
        names="train-00001-of-00002.parquet is missing",
    ),
    Case(
        "series with a missing file, with hashes (`train-00000-of-00002-6f3344faa23e9b0a`)",
        shards({"train-00000-of-00002-6f3344faa23e9b0a.parquet": TWO}),
        "refused",
        names="train-00001-of-00002.parquet is missing",
    ),
    Case(
        "series with hashes",
        shards({f"train-0000{n}-of-00002-6f3344faa23e9b0{n}.parquet": TWO for n in range(2)}),
        "all pictures",
        RED,
    ),
    Case(
        "two exports of one series",
        shards({f"train-00000-of-00001{end}.parquet": TWO for end in ("", "-6f3344faa23e9b0a")}),
        "refused",
        names="train-00000-of-00001-6f3344faa23e9b0a.parquet and train-00000-of-00001.parquet",
    ),
    Case(
        "two series of one name",
        shards({f"train-0000{n}-of-0000{of}.parquet": TWO for of in (1, 2) for n in range(of)}),
        "refused",
        names="in 1 files and in 2 files",
    ),
    Case(
        "parquet of several splits",
        shards({"train-00000-of-00001.parquet": TWO, "test-00000-of-00001.parquet": TWO}),
        "refused: choose one by a pattern",
        names="test",
    ),
    Case(
        "splits in folders",
        shards({"train/0.parquet": TWO, "validation/0.parquet": TWO}),
        "refused",
        names="validation/0.parquet",
    ),
    Case(
        "parquet of several splits, `data.path=FOLDER/train-*`",
        shards({"train-00000-of-00001.parquet": TWO, "test-00000-of-00001.parquet": b""}, "train-*"),
        "those that match",
        RED,
    ),
    Case("class names in a column", labeled(["dog", "cat"]), "in the order of names", RED, labels=(1, 0)),
    Case(
        "class names by a dictionary",
        labeled(pa.array(["dog", "cat"]).dictionary_encode()),
        "in the order of names",
        RED,
        labels=(1, 0),
    ),
    Case("`label` of null alone", labeled(pa.array([None, None], pa.int64())), "no classes", RED),
    Case("`label` with null", labeled([1, None]), "refused", names="0.parquet/000000001"),
    Case(
        "`label` with null, `data.labels=none`", labeled([1, None]), "no classes", RED, settings=("data.labels=none",)
    ),
    Case("`label` of -1", labeled([0, -1], CATS), "refused", names="0.parquet/000000001"),
    Case("`label` beyond the names", labeled([0, 3], CATS), "refused", names="0.parquet/000000001"),
    Case("`label` of true and false", labeled([True, False]), "refused", names="0.parquet/000000000"),
    Case("`label` of 0.5", labeled([0.5, 1.0]), "refused", names="0.parquet/000000000"),
    Case("`label` with lists", labeled([[0, 1], [1, 0]]), "one-hot vectors", RED, labels=(1, 0)),
    Case("`label` with several classes", labeled([[1, 1], [1, 0]]), "refused", names="0.parquet/000000000"),
    Case("`label` of dates", labeled(pa.array([1, 2], pa.date32())), "refused", names="0.parquet/000000000"),
    Case(
        "several columns of classes",
        table({"image": images(), "label": [0, 1], "class": [1, 0]}),
        "refused",
        names="label, class",
    ),
    Case(
        "several columns of classes, `data.labels=none`",
        table({"image": images(), "label": [0, 1], "class": [1, 0]}),
        "no classes",
        RED,
        settings=("data.labels=none",),
    ),
    *(
        Case(
            f"parquet, `data.labels={rule}`",
            labeled([1, 0]),
            "refused",
            settings=(f"data.labels={rule}",),
            names=f"data.labels = {rule}: parquet files have no folders of classes",
        )
        for rule in ("top", "path")
    ),
    Case(
        "files in several folders, without a column of classes",
        shards({"cats/0.parquet": TWO, "dogs/0.parquet": TWO}),
        "no classes, with a warning",
        RED,
    ),
    Case("several columns of pictures", table({"image": images(), "mask": images()}), "refused", names="image, mask"),
    Case(
        "several columns of bytes, one of them `Image`",
        table({"image": images(), "raw": pa.array([b"1", b"2"])}, {"image": IMAGE}),
        "the one that is",
        RED,
    ),
    Case(
        "lists of pictures",
        table({"images": pa.array([PICTURES, PICTURES], pa.list_(STRUCT))}),
        "refused",
        names="images",
    ),
    Case("lists of bytes", table({"images": pa.array([[A], [B]], pa.list_(pa.binary()))}), "refused", names="images"),
    Case(
        "nested struct",
        table({"x": pa.array([{"image": PICTURES[0]}] * 2, pa.struct({"image": STRUCT}))}),
        "refused",
        names="no column of pictures",
    ),
    Case("paths as text", table({"image": ["a.png", "b.png"]}), "refused: embed them", names="paths"),
    Case(
        "paths without bytes",
        table({"image": images([PICTURES[0], {"bytes": None, "path": "b.png"}])}),
        "refused: embed them",
        names="b.png",
    ),
    Case(
        "null picture",
        table({"image": images([PICTURES[0], None])}),
        "refused",
        names="0.parquet/000000001 has no picture",
    ),
    Case(
        "row group without pictures",
        table({"image": images([*PICTURES, None, None])}, row_group_size=2),
        "refused",
        names="0.parquet/000000002",
    ),
    Case(
        "picture of no bytes", table({"image": images([A, b""], pa.binary())}), "refused", names="0.parquet/000000001"
    ),
    Case(
        "picture that is truncated",
        table({"image": images([A, truncated("PNG")], pa.binary())}),
        "refused",
        names="0.parquet/000000001",
    ),
    Case(
        "bytes that are no pictures",
        table({"hash": pa.array([b"123", b"456"])}),
        "refused",
        names="0.parquet/000000000",
    ),
    Case("no column of pictures", table({"text": ["a", "b"]}), "refused", names="0.parquet"),
    Case(
        "file without rows",
        shards({"0.parquet": TWO, "1.parquet": parquet({"image": images([])})}),
        "refused",
        names="1.parquet",
    ),
    Case(
        "files of different types",
        shards({"0.parquet": TWO, "1.parquet": parquet({"image": images([A], pa.binary())})}),
        "refused",
        names="1.parquet",
    ),
    Case(
        "files of different classes",
        shards(
            {
                f"{name}.parquet": parquet(
                    {"image": images(), "label": [0, 1]}, {"label": {"_type": "ClassLabel", "names": [name, "x"]}}
                )
                for name in "ab"
            }
        ),
        "refused",
        names="b.parquet",
    ),
    Case(
        "a file without the column of classes",
        shards({"0.parquet": parquet({"image": images(), "label": [0, 1]}), "1.parquet": TWO}),
        "refused",
        names="1.parquet",
    ),
    Case("damaged metadata of Hugging Face", labeled([0, 1], b"{"), "refused", names="0.parquet"),
    Case("truncated parquet", shards({"0.parquet": TWO[:-20]}), "refused", names="0.parquet"),
    Case(
        "damaged pages",
        shards({"0.parquet": broken(parquet({"image": images()}, compression="zstd"))}),
        "refused",
        names="0.parquet",
    ),
    Case(
        "damaged column of classes",
        shards({"0.parquet": broken(parquet({"label": [0, 1], "image": images()}, compression="snappy"))}),
        "refused",
        names="0.parquet has a damaged column label",
    ),
    Case(
        "damaged column of classes, `data.labels=none`",
        shards({"0.parquet": broken(parquet({"label": [0, 1], "image": images()}, compression="snappy"))}),
        "no classes",
        RED,
        settings=("data.labels=none",),
    ),
    Case("parquet of no bytes", shards({"0.parquet": b""}), "refused", names="0.parquet"),
    Case(
        "parquet that is a pointer of Git LFS", shards({"0.parquet": LFS}), "refused: run git lfs pull", names="git lfs"
    ),
    Case("gray pictures in parquet", table({"image": images([GRAY, GRAY], pa.binary())}), "one channel", (40,)),
    Case(
        "pictures beside parquet files",
        shards({"a.png": A, "b.png": B, "metadata.parquet": TWO}),
        "tables left out, with a warning",
        RED,
    ),
]
