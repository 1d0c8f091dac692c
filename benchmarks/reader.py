"""Reading a prepared set against decoding alone, and its memory: `python -m benchmarks.reader speed|memory ...`.

`speed` alternates both, batch by batch, in one process on one core and compares CPU time: decoding the PNGs of the same
pictures from memory, and reading them in training's order through `FolderSource`, with order, checksums, normalization.
`memory` opens a synthetic set of sparse shards, reads batches from it and shows the largest resident memory.
"""

import argparse
import hashlib
import io
import json
import resource
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ganscale.data.folder import FolderSource, Reading
from ganscale.data.images import normalize
from ganscale.data.order import Order
from ganscale.data.pictures import Rules, decode
from ganscale.data.prepared import INDEX, MANIFEST, NAMES, ROW, Manifest, PreparedSet, Shard
from ganscale.prepare.convert import Settings, prepare

CPU = torch.device("cpu")
BATCH = 32


def photo(seed: int, size: int) -> Image.Image:
    """A picture whose PNG is about as large as a photo's: smooth shapes with noise."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(smooth) + rng.integers(-6, 7, (size, size, 3))).clip(0, 255).astype(np.uint8))


def timed(action: Callable[[], object]) -> float:
    """CPU seconds of this process that an action takes."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def speed(sizes: list[int], num_pictures: int, rounds: int) -> None:
    """Print throughput and the ratio of each round's pair."""
    print(
        "| pixels | bytes per PNG | decoding, images/s | reading, images/s | ratio, median [min..max] | of all rounds |"
    )
    print("|---|---|---|---|---|---|")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            source_folder, out = Path(folder, "source"), Path(folder, "out")
            source_folder.mkdir()
            for index in range(num_pictures):
                photo(index, size).save(source_folder / f"{index:05d}.png")
            prepare(source_folder, out, Settings(size, shard_size=10_000_000), lambda done, total, bad: None)
            found = PreparedSet(out)
            contents = [found.read(row) for row in range(num_pictures)]
            source = FolderSource(out, size, seed=0, device=CPU)
            rules = Rules(channels=3)

            order = Order(0, num_pictures)
            source.expect(lambda: ((start, start + BATCH) for start in range(0, 10**9, BATCH)))

            def decode_batch(wanted: list[bytes], size: int = size, rules: Rules = rules) -> None:
                normalize(torch.stack([torch.from_numpy(decode(each, size, rules)) for each in wanted]), torch.float32)

            pairs, starts = [], iter(range(0, 10**9, BATCH))
            for _ in range(rounds + 1):  # the first warms up
                plain = reading = 0.0
                for start in islice(starts, num_pictures // BATCH):
                    wanted = [contents[row] for row in order.rows(start, start + BATCH).tolist()]
                    plain += timed(lambda wanted=wanted: decode_batch(wanted))
                    reading += timed(lambda start=start, source=source: source.read(start, start + BATCH))
                pairs.append((plain, reading))
            del pairs[0]
            ratios = [plain / reading for plain, reading in pairs]
            plain, reading = (num_pictures / statistics.median(times) for times in zip(*pairs, strict=True))
            mean_bytes = sum(map(len, contents)) / num_pictures
            spread = f"{statistics.median(ratios):.3f} [{min(ratios):.3f}..{max(ratios):.3f}]"
            spread += f" | {sum(first for first, _ in pairs) / sum(second for _, second in pairs):.3f}"
            print(f"| {size} | {mean_bytes:,.0f} | {plain:,.0f} | {reading:,.0f} | {spread} |", flush=True)


def synthesize(folder: Path, gigabytes: float, size: int, different: int = 1024) -> None:
    """Write a set of which the first `different` pictures in training's order are there; the others are holes."""
    buffer = io.BytesIO()
    photo(0, size).save(buffer, format="PNG")
    content = buffer.getvalue()
    stride, per_shard = len(content) + 1024, 1000
    count = int(gigabytes * 1e9 / stride)
    rows = np.zeros(count, ROW)
    rows["shard"], rows["offset"] = np.arange(count) // per_shard, np.arange(count) % per_shard * stride + 512
    rows["size"], rows["crc32"] = len(content), zlib.crc32(content)
    shards = []
    for shard in range(-(-count // per_shard)):
        with (folder / f"shard-{shard:05d}.tar").open("wb") as file:
            file.truncate(min(per_shard, count - shard * per_shard) * stride)
        shards.append(Shard(f"shard-{shard:05d}.tar", min(per_shard, count - shard * per_shard) * stride, ""))
    for row in Order(0, count).rows(0, min(different, count)).tolist():  # those that are read
        with (folder / shards[row // per_shard].name).open("r+b") as file:
            file.seek(int(rows["offset"][row]))
            file.write(content)
    (folder / INDEX).write_bytes(rows.tobytes())
    (folder / NAMES).write_text("")
    rules = {"fit": "crop", "background": [255, 255, 255], "range": None, "labels": "auto"}
    digest = hashlib.sha256(rows.tobytes()).hexdigest()
    manifest = Manifest(count, size, 3, (), rules, tuple(shards), digest, digest)
    (folder / MANIFEST).write_text(manifest.as_text())


def memory(folder: Path, size: int, num_read: int, workers: int) -> None:
    """Open a set and read from it; print the largest memory of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = FolderSource(folder, size, seed=0, device=CPU, num_workers=workers, reading=Reading())
    source.expect(lambda: ((start, start + BATCH) for start in range(0, 10**9, BATCH)))
    for start in range(0, num_read, BATCH):
        source.read(start, start + BATCH)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = sum(shard.size for shard in PreparedSet(folder).manifest.shards)
    facts = {"GB": total / 1e9, "pictures": source.num_images, "before_MB": before / 1024, "peak_MB": peak / 1024}
    print(json.dumps(facts))


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reader", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    add = parts.add_parser("speed").add_argument
    add("--sizes", default="32,64,128,256")
    add("--pictures", type=int, default=512)
    add("--rounds", type=int, default=9)
    add = parts.add_parser("synthesize").add_argument
    add("folder", type=Path)
    add("--gigabytes", type=float, default=1.0)
    add("--size", type=int, default=256)
    add = parts.add_parser("memory").add_argument
    add("folder", type=Path)
    add("--size", type=int, default=256)
    add("--read", type=int, default=960)
    add("--workers", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "speed":
        speed([int(size) for size in options.sizes.split(",")], options.pictures, options.rounds)
    elif options.part == "synthesize":
        options.folder.mkdir(parents=True)
        synthesize(options.folder, options.gigabytes, options.size)
    else:
        memory(options.folder, options.size, options.read, options.workers)


if __name__ == "__main__":
    main()
