"""The kit for a GPU, tried on the CPU: its runs are valid, pieces resume, failures are kept and told."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu
from ganscale.config import load

PAIRS = [tuple(name.split(" ")) for name in gpu.pieces() if " " in name and not name.endswith("minimal")]


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize(("run", "mode"), PAIRS, ids=" ".join)
def test_every_mode_is_a_valid_run(run: str, mode: str, smoke: bool) -> None:
    config = load(None, gpu.overrides(run, mode, smoke=smoke, device="cpu"))
    assert config.train.compile == ("compile" in mode)
    assert config.train.cuda_graphs == ("graphs" in mode)
    assert config.train.tf32 == (mode == "tf32")
    assert (config.penalty.r1_mode == "finite_difference") == ("fd" in mode)
    assert config.train.precision == ("bfloat16" if "bf16" in mode else "float32")


def test_pieces_resume_and_a_failure_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def fail(setup: gpu.Setup) -> dict[str, object]:
        calls.append("fail")
        raise ValueError("out of memory")

    chosen = {"peak": gpu.pieces()["peak"], "mlp float32": gpu.pieces()["mlp float32"], "mlp tf32": fail}
    monkeypatch.setattr(gpu, "pieces", lambda: chosen)
    out = tmp_path / "gpu.json"
    command = ["--device", "cpu", "--smoke", "--seconds", "0.01", "--out", str(out)]
    assert gpu.main([*command, "--budget", "-1"]) == gpu.MISSING
    assert not calls
    assert gpu.main(command) == gpu.FAILED
    assert gpu.main(command) == gpu.FAILED
    assert calls == ["fail", "fail"], "what failed is tried again, what is done is not"
    found = json.loads(out.read_text())["pieces"]
    assert found["mlp float32"]["images_per_second"] > 0
    assert found["mlp float32"]["flops"] > 0
    table = out.with_suffix(".md").read_text()
    assert "| mlp | float32 |" in table
    assert "ValueError: out of memory" in table
    assert gpu.main([*command, "--pieces", "nothing"]) == gpu.REFUSED
    content = json.loads(out.read_text())
    content["machine"]["processor"] = "another"
    out.write_text(json.dumps(content))
    assert gpu.main(command) == gpu.REFUSED


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    command = ["--device", "cpu", "--smoke", "--out", str(tmp_path / "gpu.json"), "--pieces", "resume"]
    assert gpu.main(command) == gpu.DONE
