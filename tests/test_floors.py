"""The layers of the package: a package imports only packages printed below it, and each library has its places."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ganscale"

ORDER = (
    *("train", "tune", "evaluate", "sample", "copy", "dashboard", "doctor", "api"),
    *(
        "sweep",
        "launch",
        "run",
        "report",
        "prepare",
        "cli",
        "inference",
        "evaluation",
        "training",
        "tracking",
        "health",
    ),
    *("models", "losses", "data", "storage", "parallel", "config"),
)
"""From top to bottom; the first line are the commands and what they run, `cli` is what they share."""
COMMANDS = (*ORDER[:8], "cli")

PLACES = {
    "ray": ("launch", "sweep"),
    "wandb": ("tracking.wandb", "tracking.wandb_media", "tracking.wandb_dashboards"),
    "tensorboard": ("tracking.tensorboard",),
    "obstore": ("storage.store",),
    "torchft": ("parallel.quorum",),
    "argparse": (*COMMANDS, "report.__main__", "prepare.__main__"),
}
CORE = ("training", "run", "models", "storage", "health", "inference", "evaluation", "report")


def module_name(path: Path) -> str:
    """`ganscale/data/mnist.py` as `data.mnist`; the package itself as an empty text."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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
MODULES = [name for name in FILES if name]


def test_every_package_has_its_place() -> None:
    assert {name.partition(".")[0] for name in MODULES} == set(ORDER)


def test_few_modules_lie_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 10


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    own = module.partition(".")[0]
    below = ORDER[ORDER.index(own) :]
    # A command may be handed to its package: `report` is the command and the package.
    strangers = {target for target in GRAPH[module] if target.partition(".")[0] not in below}
    assert not strangers, f"ganscale.{module} imports {strangers}, which lie above {own}"


def test_no_import_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "import cycle: " + " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(GRAPH.get(module, set()) - {module}):
                visit(target, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("library", PLACES)
def test_a_library_is_imported_in_its_places_only(library: str) -> None:
    users = {name for name, path in FILES.items() if any(found.split(".")[0] == library for found in imports(path))}
    strangers = {user for user in users if not any(user == p or user.startswith(p + ".") for p in PLACES[library])}
    assert not strangers, f"{strangers} import {library}"


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing() -> None:
    loaded = loaded_by("import ganscale")
    assert [name for name in loaded if name.startswith("ganscale")] == ["ganscale"]
    assert not {"torch", "pydantic", "numpy", "ray", "wandb"} & loaded


def test_the_driver_of_a_run_on_ray_loads_no_torch() -> None:
    loaded = loaded_by("import ganscale.train, ganscale.launch.ray_train, ganscale.launch.worker_group")
    assert not {"torch", "torchvision", "matplotlib", "wandb", "sympy", "scipy", "PIL", "rich"} & loaded


def test_a_worker_on_ray_loads_nothing_of_its_driver() -> None:
    loaded = loaded_by("from ganscale.launch import process_group, worker_entry, worker_loop")
    assert {"torch", "ganscale.run.session"} <= loaded
    assert not {"ganscale.launch.ray_train", "ray.train.v2.api.data_parallel_trainer", "ganscale.run.live"} & loaded


def test_the_core_runs_without_ray_and_wandb() -> None:
    modules = [name for name in MODULES if name.partition(".")[0] in CORE and "__main__" not in name]
    loaded = loaded_by("import " + ", ".join(f"ganscale.{module}" for module in modules))
    assert {f"ganscale.{module}" for module in modules} <= loaded
    assert not {"ray", "wandb"} & loaded
