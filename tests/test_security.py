"""What SECURITY.md promises: no pickle, no code from configs, no path out of the run folder, tokens, no secret kept."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ganscale.config import Config, ConfigError, load
from ganscale.config.yaml12 import Loader
from ganscale.storage.run_dir import locate
from tests.processes import ROOT, TRAIN, Command
from tests.run.test_stop_signal import RUN

SOURCES = sorted([*(ROOT / "ganscale").rglob("*.py"), *(ROOT / "cluster").glob("*.py")])


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Calls in a file by their full written name, e.g. `torch.load`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> Any:
    """A keyword's value as written, if it is a constant."""
    for given in call.keywords:
        if given.arg == name and isinstance(given.value, ast.Constant):
            return given.value.value
    return None


OWN_PICKLES = {"ganscale/launch/compat.py": "cloudpickle.loads"}
"""What Ray has just written for this process itself."""
FORBIDDEN = re.compile(
    r"^((c?pickle|dill|joblib|shelve|marshal|cloudpickle)\..*|eval|exec|compile|__import__|os\.system|os\.popen"
    r"|yaml\.(unsafe_|full_)?load(_all)?|.*\.extractall|tempfile\.mktemp|torch\.hub\.load.*)$"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path: Path) -> None:
    """No pickle but torch's restricted one, no evaluation, no shell, no archive unpacked to where it likes."""
    for name, call in calls(path):
        if name == "yaml.load":
            assert ast.unparse(call).endswith("Loader=Loader)"), f"line {call.lineno}: give the safe loader"
            continue
        own = path.is_relative_to(ROOT) and OWN_PICKLES.get(str(path.relative_to(ROOT))) == name
        assert own or not FORBIDDEN.match(name), f"line {call.lineno} calls {name}"
        if name == "torch.load":
            assert keyword(call, "weights_only") is True, f"line {call.lineno}: weights_only=True"
        if name in ("np.load", "numpy.load"):
            assert keyword(call, "allow_pickle") is not True, f"line {call.lineno}: allow_pickle"
        assert keyword(call, "shell") is not True, f"line {call.lineno}: shell=True"


def test_the_loader_of_configs_is_a_safe_one() -> None:
    assert issubclass(Loader, yaml.SafeLoader | getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@pytest.mark.parametrize(
    "text",
    [
        "run: !!python/object/apply:os.system ['touch exploded']",
        "run: !!python/name:os.system",
        "run: !!python/module:os",
        "!!python/object/new:subprocess.Popen [['touch', 'exploded']]",
    ],
)
def test_a_config_runs_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load(tmp_path / "bad.yaml")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "name",
    ["..", ".", "../x", "a/../../x", "/etc", "a/b", "~root", ".hidden", "a\\b", "a\nb", "a\x00b", "", "-x", "x" * 101],
)
def test_no_name_leads_out_of_the_folder_of_runs(name: str) -> None:
    with pytest.raises(ConfigError):
        load(overrides=[f"run.name={name}"])


@pytest.mark.parametrize("name", ["a..b", "A-1_2.3", "x" * 100])
def test_a_run_lies_directly_in_the_folder_of_runs(name: str, tmp_path: Path) -> None:
    config = load(overrides=[f"run.name={name}", f"run.dir={tmp_path}"])
    assert locate(config).path.resolve().parent == tmp_path.resolve()


SHIPPED = sorted([*(ROOT / "cluster").glob("*.yaml"), *(ROOT / "cluster").glob("*.sh")])
STARTING = [path for path in SHIPPED if re.search(r"\bray start\b", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", STARTING, ids=lambda path: path.name)
def test_what_we_ship_for_clusters_asks_for_the_token_and_hides_the_dashboard(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    starts = len(re.findall(r"\bray start\b", text))
    assert starts >= 2, "a head and other nodes"
    assert text.count("RAY_AUTH_MODE=token") >= (1 if path.suffix == ".sh" else starts)
    assert "RAY_AUTH_MODE=disabled" not in text
    assert not re.search(r"--dashboard-host[= ](?!127\.0\.0\.1)", text)


def test_there_are_cluster_files_to_look_at() -> None:
    assert {path.name for path in STARTING} >= {"aws.yaml", "gcp.yaml", "on-prem.yaml", "slurm.sh"}


def test_kubernetes_asks_for_the_token() -> None:
    for part in ("train", "cluster"):
        text = (ROOT / "k8s" / "overlays" / "gpu" / part / "objects.yaml").read_text(encoding="utf-8")
        (spec,) = [each["spec"] for each in yaml.safe_load_all(text) if each["kind"] in ("RayJob", "RayCluster")]
        assert spec.get("rayClusterSpec", spec)["authOptions"] == {"mode": "token"}


def words(section: Any, path: str = "") -> Iterator[str]:
    """All keys of the config, as they are written."""
    for name in type(section).model_fields:
        yield f"{path}{name}"
        below = getattr(section, name)
        if isinstance(below, BaseModel):
            yield from words(below, f"{path}{name}.")


def test_no_setting_takes_a_secret() -> None:
    secret = re.compile(r"token|secret|password|api_?key|credential", re.IGNORECASE)
    assert not [name for name in words(Config()) if secret.search(name)]


SECRETS = {
    "WANDB_API_KEY": "5ec4e7" * 6 + "abcd",
    "RAY_AUTH_TOKEN": "b0a7" * 16,
    "AWS_SECRET_ACCESS_KEY": "wJalrSECRETbPxRfiCY",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/gcpSECRETfile",
    "HF_TOKEN": "hf_SECRETSECRET",
}


def test_no_secret_is_kept_anywhere(tmp_path: Path) -> None:
    """A run with W&B offline, TensorBoard's and all other files: none holds what was in the environment."""
    command = [*TRAIN, "--launcher", "local", *RUN, "wandb.mode=offline", f"run.dir={tmp_path / 'runs'}"]
    with Command(command, tmp_path / "out", environment=SECRETS, cwd=tmp_path) as running:
        said = running.succeed(240)
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(files) > 10
    for name, secret in SECRETS.items():
        assert secret not in said, name
        assert not [path for path in files if secret.encode() in path.read_bytes()], name


def test_the_promises_name_nobody() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert not re.search(r"[\w.]+@[\w.]+\.\w+", text), "no address of a person"
    assert "private security advisory" in text


def test_the_check_itself_sees_what_is_forbidden(tmp_path: Path) -> None:
    for bad in (
        "import torch\ntorch.load('x')",
        "import pickle\npickle.loads(b'')",
        "eval('1')",
        "yaml.load(x, Loader=L)",
    ):
        (tmp_path / "bad.py").write_text(bad, encoding="utf-8")
        with pytest.raises(AssertionError):
            test_nothing_that_is_read_can_run(tmp_path / "bad.py")


def test_importing_the_package_opens_no_connection() -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('a connection')\n"
        "socket.socket.connect = refuse\n"
        "import ganscale.training.build, ganscale.storage.checkpoint, ganscale.run.session\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240, cwd=ROOT)
