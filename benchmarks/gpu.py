"""Measure and check one GPU in a few minutes: `make gpu`, or `python -m benchmarks.gpu`.

The work is cut into pieces of seconds. Each writes its result to the JSON file, and the next call goes on with those
that are missing, so that several short loans of a machine add up to one table. A piece that fails is recorded with its
error and tried again by the next call. Neither network nor Ray nor W&B is needed.

Exit codes: 0 all pieces are done, 1 a piece failed, 2 invalid request, 4 the time is used up and pieces are missing.
"""

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE, FAILED, REFUSED, MISSING = 0, 1, 2, 4

RUNS: dict[str, tuple[str, ...]] = {
    "mlp": ("train.batch_size=128", "loss.label_smoothing=0"),
    "dcgan64": (
        "data.name=stacked_mnist",
        "data.resolution=64",
        "model.generator.name=dcgan",
        "model.discriminator.name=dcgan",
        "train.batch_size=256",
        "loss.label_smoothing=0",
    ),
    **{
        f"r3gan{side}": (
            "data.name=stacked_mnist",
            f"data.resolution={side}",
            "model.generator={name: r3gan, width: 64, max_width: 256, depth: 1, group_size: 16}",
            "model.discriminator={name: r3gan, width: 64, max_width: 256, depth: 1, group_size: 16}",
            "loss.name=relativistic_pairing",
            "penalty.r1=1",
            "penalty.r2=1",
            "train.batch_size=256",
        )
        for side in (32, 64)
    },
}
"""Overrides of the default run."""
_NARROW = tuple(
    f"model.{side}.{key}" for side in ("generator", "discriminator") for key in ("width=16", "max_width=32")
)
SMOKE = {
    "mlp": ("model.generator.width=32", "model.discriminator.width=32"),
    "dcgan64": ("model.generator.width=4", "model.discriminator.width=4"),
    "r3gan32": _NARROW,
    "r3gan64": _NARROW,
}
"""Further overrides with `--smoke`: sizes for seconds on a CPU."""
MODES = {
    "float32": (),
    "tf32": ("train.tf32=true",),
    "bf16": ("train.precision=bfloat16",),
    "channels_last": ("train.channels_last=true",),
    "fd": ("penalty.r1_mode=finite_difference", "penalty.r2_mode=finite_difference"),
    "compile": ("train.compile=true",),
    "graphs": ("train.cuda_graphs=true",),
}
"""Overrides of the parts of a mode; a mode is some of them, joined by +."""
PLAIN = (
    *("float32", "tf32", "graphs", "bf16", "channels_last", "bf16+channels_last", "graphs+bf16+channels_last"),
    *("compile", "compile+bf16+channels_last"),
)
PENALIZED = (
    *("float32", "tf32", "graphs", "bf16+channels_last", "fd", "fd+bf16", "fd+bf16+channels_last"),
    *("graphs+fd+bf16+channels_last", "compile+fd", "compile+fd+bf16+channels_last"),
)


@dataclass(frozen=True)
class Setup:
    """What all pieces need.

    Attributes:
        device: "cuda" or "cpu".
        smoke: whether sizes are tiny.
        seconds: of measuring per mode, after the warm-up.
    """

    device: str
    smoke: bool
    seconds: float


Piece = Callable[[Setup], dict[str, Any]]


def pieces() -> dict[str, Piece]:
    """All pieces by name, the most important first."""
    found: dict[str, Piece] = {"peak": _peak, "resume": _resume, "tests": _tests}
    for run in RUNS:
        for mode in PENALIZED if run.startswith("r3gan") else PLAIN:
            found[f"{run} {mode}"] = lambda setup, run=run, mode=mode: _speed(setup, run, mode)
    for run in ("mlp", "dcgan64"):
        found[f"{run} minimal"] = lambda setup, run=run: _minimal(setup, run)
    return found


def overrides(run: str, mode: str, *, smoke: bool, device: str) -> list[str]:
    """Overrides of the default run.

    Args:
        run: of `RUNS`.
        mode: parts of `MODES`, joined by +.
        smoke: whether sizes are tiny.
        device: "cuda" or "cpu".
    """
    words = [*RUNS[run], *(word for part in mode.split("+") for word in MODES[part]), f"train.device={device}"]
    return [*words, *SMOKE[run], "train.batch_size=8"] if smoke else words


def _speed(setup: Setup, run: str, mode: str) -> dict[str, Any]:
    """Images/s, times and peak memory of the loop of a run."""
    from benchmarks.speed.counting import FlopCounter
    from benchmarks.speed.measure import Ganscale
    from ganscale.config import load
    from ganscale.training.build import build

    eager = "+".join(part for part in mode.split("+") if part != "compile") or "float32"
    plain = build(load(None, overrides(run, eager, smoke=setup.smoke, device=setup.device)), device=setup.device)
    with FlopCounter() as counter:
        plain.step(plain.sampler.batches(0), plain.schedule.controls(0))
    del plain
    experiment = build(load(None, overrides(run, mode, smoke=setup.smoke, device=setup.device)), device=setup.device)
    return _timed(setup, Ganscale(experiment)) | {"flops": counter.total}


def _minimal(setup: Setup, run: str) -> dict[str, Any]:
    """The hand-written loop in eager float32."""
    from benchmarks.speed.baselines import Minimal
    from ganscale.config import load
    from ganscale.training.build import build

    config = load(None, overrides(run, "float32", smoke=setup.smoke, device=setup.device))
    return _timed(setup, Minimal(build(config, device=setup.device)))


def _timed(setup: Setup, contender: Any) -> dict[str, Any]:
    """Warm up until compiled, then blocks of about a sixth of `Setup.seconds`."""
    import torch

    from benchmarks.speed.measure import measure

    started = time.perf_counter()
    (first,) = measure([contender], iterations=3, rounds=1)
    warm_up = time.perf_counter() - started
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    size = max(2, int(setup.seconds / 6 * 1e3 / first.milliseconds.median))
    (result,) = measure([contender], iterations=size, rounds=6)
    return {
        "batch_size": contender.batch_size,
        "images_per_second": result.images_per_second,
        "ms_p50": result.milliseconds.median,
        "ms_p90": result.milliseconds.p90,
        "warm_up_seconds": warm_up,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if setup.device == "cuda" else None,
    }


def _peak(setup: Setup) -> dict[str, Any]:
    """FLOP/s of large matrix products: what model FLOP utilization is measured against."""
    import torch

    from ganscale.training.build import set_tf32

    size, found = (256 if setup.smoke else 8192), {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        set_tf32(tf32)
        a = torch.randn(size, size, device=setup.device, dtype=dtype)
        best = float("inf")
        for _ in range(8):
            started = time.perf_counter()
            for _ in range(4):
                torch.mm(a, a)
            if setup.device == "cuda":
                torch.cuda.synchronize()
            best = min(best, (time.perf_counter() - started) / 4)
        found[name] = 2 * size**3 / best
    return found


def _tests(setup: Setup) -> dict[str, Any]:
    """The tests marked gpu, which skip without one."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu"]
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    if done.returncode:
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or done.stderr.splitlines()[-1:]
        raise RuntimeError("; ".join([*lines[-1:], *failed]))
    return {"summary": lines[-1]}


def _resume(setup: Setup) -> dict[str, Any]:
    """A run that is killed and resumed ends with the same bits as one that was not."""
    from ganscale.storage.checkpoint import CheckpointStore

    images, every = 12_800, 640
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

        def command(name: str) -> list[str]:
            return [
                *(
                    sys.executable,
                    "-m",
                    "ganscale.train",
                    "--launcher",
                    "local",
                    f"run.dir={folder}",
                    f"run.name={name}",
                ),
                *overrides("dcgan64", "float32", smoke=True, device=setup.device),
                *(f"train.images={images}", f"checkpoint.every={every}", f"log.every={every}", "train.batch_size=64"),
                *("train.deterministic=true", "eval.every=0", "log.samples_every=100000000", "wandb.mode=disabled"),
            ]

        def checkpoints(name: str) -> list[Path]:
            store = Path(folder) / name / "checkpoints"
            return list(CheckpointStore(store).folders())

        def finish(name: str) -> None:
            done = subprocess.run(command(name), env=environment, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-1000:]}")

        finish("whole")
        killed = subprocess.Popen(
            command("killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while not checkpoints("killed") and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        resumed_at = [int(path.name) for path in checkpoints("killed")]
        finish("killed")
        same = _same_state(*(max(checkpoints(name)) for name in ("whole", "killed")))
    if not same:
        raise RuntimeError("the resumed run ends with other weights than the undisturbed one")
    return {"images": images, "killed_after": max(resumed_at, default=0), "same_bits": True}


def _same_state(first: Path, second: Path) -> bool:
    import torch

    from ganscale.storage import checkpoint

    (_, one), (_, other) = checkpoint.load(first), checkpoint.load(second)
    try:
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
    except AssertionError:
        return False
    return True


def run_pieces(setup: Setup, path: Path, names: Sequence[str], *, budget: float) -> int:
    """Run the pieces that the file lacks, and write the table beside it.

    Args:
        setup: of all pieces.
        path: the JSON file.
        names: of pieces.
        budget: seconds after which no further piece begins.

    Returns:
        The exit code.
    """
    import torch

    from benchmarks.speed.measure import machine

    if setup.device == "cpu":
        torch.set_num_threads(1)
    known = pieces()
    key = {**machine(torch.device(setup.device)), "smoke": setup.smoke}
    content = json.loads(path.read_text()) if path.exists() else {"machine": key, "pieces": {}}
    if content["machine"] != key:
        print(f"error: {path} has results of another machine: {content['machine']}\n  remedy: name another --out")
        return REFUSED
    started, failed, missing = time.monotonic(), [], []
    for name in names:
        if "error" not in content["pieces"].get(name, {"error": ""}):
            continue
        if time.monotonic() - started > budget:
            missing.append(name)
            continue
        begun = time.monotonic()
        try:
            result = known[name](setup)
        except Exception as error:  # the other pieces are still worth running
            result = {"error": f"{type(error).__name__}: {error}"[:2000]}
            failed.append(name)
        content["pieces"][name] = result | {"seconds": round(time.monotonic() - begun, 2)}
        print(f"{name}: {result}", flush=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
        gc.collect()
        torch._dynamo.reset()
        if setup.device == "cuda":
            torch.cuda.empty_cache()
    path.with_suffix(".md").write_text("\n".join(_table(content)) + "\n")
    print(path.with_suffix(".md").read_text())
    if missing:
        print(f"time is up; missing: {', '.join(missing)} (run the same command again)")
    return FAILED if failed else MISSING if missing else DONE


def _table(content: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown."""
    found, peak = content["pieces"], content["pieces"].get("peak", {})
    yield ", ".join(f"{key} {value}" for key, value in content["machine"].items()) + "\n"
    if "bf16" in peak:
        yield (
            "Matrix products: "
            + ", ".join(f"{n} {peak[n] / 1e12:.1f} TFLOP/s" for n in ("float32", "tf32", "bf16"))
            + "\n"
        )
    if "resume" in found:
        yield f"Killed and resumed: {found['resume'].get('error', 'the same bits')}\n"
    if "tests" in found:
        yield f"Tests: {found['tests'].get('error') or found['tests']['summary']}\n"
    yield "| run | mode | images/s | ms/iteration p50 (p90) | over float32 | peak memory | of peak | warm-up |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, piece in found.items():
        run, _, mode = name.partition(" ")
        if not mode:
            continue
        if "error" in piece:
            yield f"| {run} | {mode} | {piece['error'].splitlines()[0][:80]} | | | | | |"
            continue
        base = found.get(f"{run} float32", {}).get("ms_p50")
        ratio = f"{base / piece['ms_p50']:.2f}" if base else ""
        memory = f"{piece['peak_memory_bytes'] / 2**20:,.0f} MiB" if piece["peak_memory_bytes"] else ""
        unit = "bf16" if "bf16" in mode else "tf32" if "tf32" in mode else "float32"
        used = f"{piece['flops'] / piece['ms_p50'] * 1e3 / peak[unit]:.1%}" if "flops" in piece and unit in peak else ""
        times = f"{piece['ms_p50']:.2f} ({piece['ms_p90']:.2f})"
        speed = f"{piece['images_per_second']:,.0f}"
        yield f"| {run} | {mode} | {speed} | {times} | {ratio} | {memory} | {used} | {piece['warm_up_seconds']:.1f} s |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure and check one GPU.")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="results; the table lies beside it as .md")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: tries the kit itself, also on a CPU")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which no further piece begins")
    parser.add_argument("--seconds", type=float, default=None, help="of measuring per mode (3; with --smoke 0.1)")
    parser.add_argument("--pieces", default="", help="comma-separated names, or beginnings of names; all if left out")
    options = parser.parse_args(arguments)
    import torch

    wanted = [word.strip() for word in options.pieces.split(",") if word.strip()]
    names = [name for name in pieces() if not wanted or any(name.startswith(word) for word in wanted)]
    if options.device == "cpu":
        names = [name for name in names if "graphs" not in name]
    if not names:
        print(f"error: --pieces = {options.pieces}: no such piece\n  remedy: use some of {', '.join(pieces())}")
        return REFUSED
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device = cuda: torch finds no GPU here\n  remedy: use --device cpu --smoke to try the kit")
        return REFUSED
    seconds = options.seconds or (0.1 if options.smoke else 3.0)
    return run_pieces(Setup(options.device, options.smoke, seconds), options.out, names, budget=options.budget)


if __name__ == "__main__":
    sys.exit(main())
