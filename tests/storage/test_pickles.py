"""Pickles are read as records: whatever they would import or call, nothing runs, and what is damaged is refused."""

import builtins
import io
import os
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ganscale.storage.pickles import Global, Made, PickleError, module_state, module_tensors, parse, read_tensor


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


def network() -> nn.Module:
    """With parameters and buffers of several kinds, in modules in modules."""
    inner = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1, bias=False), nn.BatchNorm2d(4))
    return nn.Sequential(inner, nn.Linear(4, 2).double(), nn.Linear(2, 2).half(), nn.Identity()).requires_grad_(False)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_tensors_of_a_module_are_those_that_torch_pickled(protocol: int) -> None:
    module = network()
    content = pickle.dumps({"G": module, "images": 5}, protocol=protocol)
    root = parse(content)
    found = module_tensors(root["G"], most=len(content))
    assert root["images"] == 5
    assert found.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    "tensor",
    [torch.arange(12.0).view(3, 4).t(), torch.arange(12)[3:9], torch.tensor(2.0), torch.empty(0, 3), torch.arange(6.0)],
    ids=["transposed", "part", "scalar", "empty", "plain"],
)
def test_views_keep_their_numbers(tensor: torch.Tensor) -> None:
    found = read_tensor(parse(pickle.dumps(tensor)))
    assert torch.equal(found, tensor)
    assert found.shape == tensor.shape


RAN: list[str] = []


def record(text: str) -> str:
    """Shows that something ran."""
    RAN.append(text)
    return text


def _persistent(path: Path) -> dict[str, Any]:
    source = f"open({str(path)!r}, 'w').close()"
    state = {"_parameters": {"w": torch.ones(2)}, "_buffers": {}, "_modules": {}}
    return {"type": "class", "version": 6, "module_src": source, "class_name": "G", "state": state}


ATTACKS: dict[str, Any] = {
    "system": lambda path: Call(os.system, f"touch {path}"),
    "eval": lambda path: Call(eval, f"open({str(path)!r}, 'w')"),
    "exec": lambda path: Call(exec, f"open({str(path)!r}, 'w')"),
    "import": lambda path: Call(builtins.__import__, "antigravity"),
    "popen": lambda path: Call(subprocess.Popen, ["touch", str(path)]),
    "chain": lambda path: Call(getattr, Call(builtins.__import__, "os"), "system"),
    "map": lambda path: Call(list, Call(map, os.system, [f"touch {path}"])),
    "own_function": lambda path: Call(record, "ran"),
    "torch_load": lambda path: Call(torch.load, io.BytesIO(pickle.dumps(Call(record, "ran")))),
    "load_from_bytes": lambda path: Call(torch.storage._load_from_bytes, pickle.dumps(Call(record, "ran"))),
    "state": lambda path: Call(Call, record, "ran", state={"__class__": record}),
    "ordered_dict": lambda path: OrderedDict(a=Call(record, "ran")),
    "in_a_list": lambda path: [Call(record, "ran")],
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_runs(name: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    content = pickle.dumps({"G": ATTACKS[name](path)}, protocol=protocol)
    before = set(sys.modules)
    with pytest.raises(PickleError):
        module_tensors(parse(content)["G"], most=len(content))
    assert not path.exists()
    assert not RAN
    assert set(sys.modules) == before


def test_the_attacks_would_run_otherwise(tmp_path: Path) -> None:
    """What the tests above show depends on it."""
    pickle.loads(pickle.dumps(ATTACKS["own_function"](tmp_path)))
    assert RAN == ["ran"]
    RAN.clear()


def test_source_code_in_a_pickle_is_a_text(tmp_path: Path) -> None:
    """StyleGAN's modules hold the source of their own classes, which its loader executes."""
    path = tmp_path / "ran"
    persistence = Global("torch_utils.persistence", "_reconstruct_persistent_obj")
    value = Made(persistence, (parse(pickle.dumps(_persistent(path))),))
    assert module_state(value) is not None
    assert torch.equal(module_tensors(value, most=100)["w"], torch.ones(2))
    assert not path.exists()


def test_hooks_of_tensors_and_modules_are_not_called() -> None:
    module = nn.Linear(2, 2)
    module.register_forward_hook(print)  # pickled by name
    module._load_state_dict_pre_hooks[0] = print
    content = pickle.dumps(module)
    assert module_tensors(parse(content), most=len(content)).keys() == {"weight", "bias"}


def _deep_key() -> bytes:
    return b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"Ns."


def _deep_list() -> bytes:
    return b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b"."


DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "no_end": b"\x80\x04}",
    "no_mark": b"\x80\x04t.",
    "nothing_on_the_stack": b"\x80\x04.",
    "unknown_memo": b"\x80\x04h\x07.",
    "long_length": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "long_frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N",
    "number_of_digits": b"I" + b"9" * 100_000 + b"\n.",
    "extension": b"\x80\x02\x82\x01.",
    "instance": b"(ios\nsystem\n.",
    "persistent_text": b"Pabc\n.",
    "deep_key": _deep_key(),
    "list_as_key": b"\x80\x04}]Ns.",
    "items_of_a_number": b"\x80\x04K\x01NNs.",
    "append_to_a_number": b"\x80\x04K\x01Na.",
    "odd_items": b"\x80\x04}(Nu.",
    "number_as_import": b"\x80\x04K\x01K\x02\x93.",
    "out_of_band": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles_are_refused(name: str) -> None:
    with pytest.raises(PickleError):
        parse(DAMAGED[name])


def test_a_cut_pickle_is_refused_wherever_it_is_cut() -> None:
    content = pickle.dumps(network())
    for length in range(0, len(content) - 1, 37):
        with pytest.raises(PickleError):
            module_tensors(parse(content[:length]), most=len(content))


def test_nesting_is_no_recursion() -> None:
    assert isinstance(parse(_deep_list()), list)


def test_modules_without_end_are_refused() -> None:
    state: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    loop = Made(Global("a", "b"), (), state)
    state["_modules"]["again"] = loop
    with pytest.raises(PickleError, match="in each other"):
        module_tensors(loop, most=1)
    wide = Made(Global("a", "b"), (), {"_parameters": {}, "_buffers": {}, "_modules": {}})
    for _ in range(50):  # 10^50 modules by 500 references
        wide = Made(Global("a", "b"), (), {**state, "_modules": {str(number): wide for number in range(10)}})
    with pytest.raises(PickleError, match="modules"):
        module_tensors(wide, most=1)


def test_one_storage_named_often_is_refused() -> None:
    tensor = parse(pickle.dumps(torch.ones(1000)))
    many = {str(number): tensor for number in range(100)}
    value = Made(Global("a", "b"), (), {"_parameters": many, "_buffers": {}, "_modules": {}})
    with pytest.raises(PickleError, match="more bytes than the file"):
        module_tensors(value, most=8000)


@pytest.mark.parametrize(
    "change",
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2, 2), (4, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (1, 1)),
        (0, (True,), (1,)),
        (0, [2], (1,)),
        (0, (1,) * 9, (1,) * 9),
    ],
)
def test_a_tensor_stays_in_its_storage(change: tuple[Any, Any, Any]) -> None:
    tensor = parse(pickle.dumps(torch.ones(4)))
    with pytest.raises(PickleError):
        read_tensor(Made(tensor.function, (tensor.arguments[0], *change, False, {})))


@pytest.mark.parametrize("cut", [1, 8, 17, 40])
def test_a_storage_is_as_long_as_it_says(cut: int) -> None:
    tensor = parse(pickle.dumps(torch.ones(4)))
    storage = tensor.arguments[0]
    for content in (storage.arguments[0][:-cut], storage.arguments[0] + b"\0" * cut, b""):
        damaged = Made(storage.function, (content,))
        with pytest.raises(PickleError):
            read_tensor(Made(tensor.function, (damaged, *tensor.arguments[1:])))
