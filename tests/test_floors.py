"""The floors of the architecture: a module imports only from floors below its own, or along a drawn arrow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ganscale"

SAMPLING = ("generator", "loaded", "sampling", "interpolation", "neighbors", "export", "shards")

FLOORS = {
    5: ("train", "tune", "sample", "evaluate", "classifier", "report", "dashboard", "bench", "doctor", "healthbench"),
    4: ("runtime", "tracking.wandb", "tracking.wandb_dashboards"),
    3: (
        *(
            "build",
            "loop",
            "evaluation",
            "comparison",
            "checkpoint",
            "runfolder",
            "tracking",
            "health",
            "response",
            "faults",
        ),
        *("reporting", "environment", "search", "diagnosis"),
        *SAMPLING,
    ),
    2: ("data", "metrics", "state", "extension"),
    1: (
        "step",
        "objective",
        "losses",
        "collectives",
        "schedules",
        "ema",
        "augment",
        "models",
        "layers",
        "diversity",
        "state_hash",
    ),
    0: ("config", "output", "random", "shared_memory"),
}
"""The longest name that fits decides: `tracking.wandb` before `tracking`."""

ARROWS = {
    "step": {"objective", "augment", "schedules", "collectives", "layers", "diversity"},
    "objective": {"losses", "augment", "schedules", "collectives", "layers"},
    "losses": {"collectives"},
    "models": {"layers"},
    "layers": {"collectives"},
    "metrics": {"data"},
    "build": {"loop"},
    "evaluation": {"loop", "checkpoint"},
    "tracking": {"runfolder", "checkpoint"},
    "runfolder": {"checkpoint"},
    "loaded": {"loop"},
    "generator": {"build", "checkpoint", "loaded"},
    "sampling": {"build", "loaded", "tracking"},
    "interpolation": {"loaded", "sampling", "tracking"},
    "neighbors": {"build", "checkpoint", "loaded", "sampling", "tracking"},
    "export": {"generator", "loaded"},
    "shards": {"checkpoint", "loaded", "runfolder", "sampling"},
    "response": {"health"},
    "faults": {"checkpoint", "runfolder"},
    "search": {"checkpoint"},
    "reporting": {"checkpoint", "comparison", "runfolder", "tracking"},
    "bench": {"train"},
    "runtime": {"tracking.wandb"},
    "tracking.wandb_dashboards": {"tracking.wandb"},
}
"""Imports within a floor. Files of one folder may import each other."""

ORDERED = ("runtime.search", "runtime.trainer", "runtime.worker")
"""Within runtime: each may import from those to its right."""

LIGHT = ("ray", "wandb")
CORE = ("step", "loop", "models", "build", "state", "checkpoint", "sample", "health", "search.report", *SAMPLING)


def module_name(path: Path) -> str:
    """`ganscale/data/mnist.py` as `data.mnist`; the package itself as `ganscale`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "ganscale"


def imports(path: Path) -> Iterator[str]:
    """Full names that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            below = PACKAGE.parent.joinpath(*(node.module or "").split("."))
            for alias in node.names:
                is_module = (below / alias.name).is_dir() or (below / f"{alias.name}.py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module or ""


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
GRAPH = {
    name: {found.removeprefix("ganscale.") for found in imports(path) if found.startswith("ganscale.")}
    for name, path in FILES.items()
}


def place(module: str) -> tuple[int, str]:
    """The floor of a module and the entry of `FLOORS` that it belongs to."""
    fits = [
        (entry, floor)
        for floor, entries in FLOORS.items()
        for entry in entries
        if module == entry or module.startswith(entry + ".")
    ]
    assert fits, f"ganscale.{module} has no floor: draw it in DESIGN.md and in this test"
    entry, floor = max(fits, key=lambda fit: len(fit[0]))
    return floor, entry


@pytest.mark.parametrize("module", [name for name in FILES if name != "ganscale"])
def test_imports_go_down_or_along_an_arrow(module: str) -> None:
    floor, entry = place(module)
    for target in GRAPH[module]:
        below, other = place(target)
        allowed = below < floor or other == entry or other in ARROWS.get(entry, ())
        assert allowed, f"ganscale.{module} (floor {floor}) imports ganscale.{target} (floor {below})"


def test_runtime_goes_from_search_to_trainer_to_worker() -> None:
    for index, module in enumerate(ORDERED):
        forbidden = set(ORDERED[:index]) & GRAPH.get(module, set())
        assert not forbidden, f"ganscale.{module} imports {forbidden}"


def test_the_package_itself_loads_nothing() -> None:
    code = "import sys, ganscale; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name.startswith("ganscale")] == ["ganscale"]
    assert not {"torch", "pydantic", "numpy", *LIGHT} & set(loaded)


def test_no_import_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "import cycle: " + " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(GRAPH.get(module, set()) - {module}):
                visit(target, (*path, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("ray", ("runtime",)),
        ("wandb", ("tracking.wandb", "tracking.wandb_dashboards")),
        ("tensorboard", ("tracking.tensorboard",)),
        ("argparse", FLOORS[5]),
    ],
)
def test_a_library_is_imported_in_its_place_only(library: str, places: tuple[str, ...]) -> None:
    users = {name for name, path in FILES.items() if any(found.split(".")[0] == library for found in imports(path))}
    strangers = {user for user in users if not any(user == p or user.startswith(p + ".") for p in places)}
    assert not strangers, f"{strangers} import {library}"


@pytest.mark.parametrize("module", [name for name in CORE if name in FILES])
def test_the_core_runs_without_ray_and_wandb(module: str) -> None:
    code = f"import sys, ganscale.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert f"ganscale.{module}" in loaded
    assert not set(LIGHT) & set(loaded)
