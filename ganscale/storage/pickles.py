"""Tensors out of a pickle without running anything: no class is imported, no function is called.

The opcodes (`pickletools.genops`) are interpreted here. What a pickle would import is kept as a name (`Global`), what
it would call as a record of the call (`Made`), so that source code inside a pickle, as StyleGAN's `persistence` stores
it, is a text. From these records, tensors are read of those forms that torch's own pickles have.
"""

import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partialmethod
from io import BytesIO
from typing import Any

MAX_BYTES = 16 * 2**30
"""Of a file."""
MAX_MODULES = 100_000
MAX_DEPTH = 64
"""Of modules in modules."""
MAGIC = 0x1950A86A20F9469CFC6C
"""First value of torch.save's format before 1.6, which torch pickles storages in."""
_MARK = object()


class PickleError(ValueError):
    """A pickle that is damaged, or that holds what is not read here."""


@dataclass(frozen=True)
class Global:
    """A name that a pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:100]


@dataclass(eq=False, repr=False)
class Made:
    """A call that a pickle would make, and what it would do to the result.

    Attributes:
        function: what it would call.
        arguments: with these.
        state: that it would give the result.
        items: that it would set in the result.
    """

    function: object
    arguments: object
    state: object = None
    items: dict[Any, Any] = field(default_factory=dict)


def parse(content: bytes) -> Any:
    """A pickle as plain containers, numbers and texts, `Global` and `Made`.

    Args:
        content: of the file.

    Raises:
        PickleError: it is damaged, or uses what no pickle of networks needs.
    """
    return _parse(BytesIO(content))


def _parse(file: BytesIO) -> Any:
    """The next pickle of a stream."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.run(opcode.name, argument)
    except PickleError:
        raise
    except Exception as error:  # whatever damaged bytes lead to
        raise PickleError(f"it is damaged ({type(error).__name__})") from None
    raise PickleError("it is damaged (no end)")


class _Machine:
    """The pickle machine's stack and memo, where calls are only recorded."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _MAKE:
            self.stack.append(_MAKE[name]())
        elif name not in ("PROTO", "FRAME"):
            action: Callable[[Any], None] | None = getattr(self, f"_{name.lower()}", None)
            if action is None:
                raise PickleError(f"it uses the opcode {name}")
            action(argument)

    def _marked(self) -> list[Any]:
        """What lies above the last mark, taken off with it."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise PickleError("it is damaged (no mark)")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _tuple_of(self, count: int, _: Any) -> None:
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(values)

    _tuple1 = partialmethod(_tuple_of, 1)
    _tuple2 = partialmethod(_tuple_of, 2)
    _tuple3 = partialmethod(_tuple_of, 3)

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    _frozenset = _list

    def _dict(self, _: Any) -> None:
        values = self._marked()
        self.stack.append({})
        self._set(values)

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    _additems = _appends

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Made):  # a list of the pickle's own kind: not needed
            raise PickleError("it appends to what is no list")

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Made) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise PickleError("it sets items of what is no mapping")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int | float | bytes | bool | None):  # the hash of a deep tuple would overflow
                raise PickleError(f"it has a {type(key).__name__} as a key")
            items[key] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Global(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("it imports what is no name")
        self.stack.append(Global(module, name))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function == Global("collections", "OrderedDict") and arguments == ():
            self.stack.append({})
        else:
            self.stack.append(Made(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()  # named arguments
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state  # of all else it is not needed

    def _binpersid(self, _: Any) -> None:
        self.stack.append(Made(Global("", "persistent_load"), self.stack.pop()))


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_VALUES = frozenset((*_NUMBERS, *_TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"))
_MAKE: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}


def module_state(value: Any) -> dict[str, Any] | None:
    """The attributes of a pickled `nn.Module`, also of one with its source code; None if it is none.

    Args:
        value: part of what `parse` gives.
    """
    state = None
    if isinstance(value, Made):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        if value.function == Global("torch_utils.persistence", "_reconstruct_persistent_obj"):
            arguments = value.arguments
            meta = arguments[0] if isinstance(arguments, tuple) and arguments else None
            meta = meta.items if isinstance(meta, Made) else meta
            state = meta.get("state") if isinstance(meta, dict) else None
            state = state.items if isinstance(state, Made) else state
    parts = ("_parameters", "_buffers", "_modules")
    return state if isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in parts) else None


def module_tensors(value: Any, *, most: int) -> dict[str, Any]:
    """Parameters and buffers of a pickled module and the modules in it, by name as in `state_dict`.

    Args:
        value: part of what `parse` gives.
        most: bytes that the tensors may have together, as those of the file: one storage can be named a million times.

    Raises:
        PickleError: it is no module, or a tensor is not as it should be.
    """
    return dict(_tensors(value, "", _Budget(MAX_MODULES, most), 0))


@dataclass
class _Budget:
    modules: int
    bytes: int


def _tensors(value: Any, prefix: str, left: _Budget, depth: int) -> Iterator[tuple[str, Any]]:
    state = module_state(value)
    left.modules -= 1
    if state is None:
        raise PickleError(f"{prefix[:100].rstrip('.') or 'it'} is no module")
    if left.modules < 0 or depth > MAX_DEPTH:
        raise PickleError(f"it has more than {MAX_MODULES:,} modules, or more than {MAX_DEPTH} in each other")
    for kind in ("_parameters", "_buffers"):
        for name, record in state[kind].items():
            if record is not None:
                tensor = read_tensor(record)
                left.bytes -= tensor.nbytes
                if left.bytes < 0:
                    raise PickleError("it has tensors of more bytes than the file")
                yield f"{prefix}{name}", tensor
    for name, child in state["_modules"].items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.", left, depth + 1)


def read_tensor(value: Any) -> Any:
    """A tensor on the CPU, with storage of its own, from the record of torch's own functions.

    Args:
        value: part of what `parse` gives.

    Raises:
        PickleError: it is of another form, or reaches beyond its storage.
    """
    import torch

    if isinstance(value, Made) and str(value.function) in _PARAMETERS and isinstance(value.arguments, tuple):
        value = value.arguments[0] if value.arguments else None
    if not isinstance(value, Made) or str(value.function) != "torch._utils._rebuild_tensor_v2":
        what = value.function if isinstance(value, Made) else type(value).__name__
        raise PickleError(f"it has {what!s} where a tensor should be")
    arguments = value.arguments
    if not isinstance(arguments, tuple) or len(arguments) < 4:
        raise PickleError("it has a damaged tensor")
    storage, offset, size, stride = arguments[:4]
    numbers = [offset, *size, *stride] if isinstance(size, tuple) and isinstance(stride, tuple) else [None]
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers) or not len(size) == len(stride) <= 8:
        raise PickleError("it has a tensor with a damaged shape")
    values = _read_storage(storage)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) > len(values) or (math.prod(size) and last >= len(values)):
        raise PickleError("it has a tensor that reaches beyond its storage")
    return torch.as_strided(values, size, stride, offset).clone()


_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
}


def _read_storage(value: Any) -> Any:
    """The numbers of a pickled storage, a tensor of one dimension."""
    import torch

    loads = isinstance(value, Made) and str(value.function) == "torch.storage._load_from_bytes"
    content = value.arguments[0] if loads and isinstance(value.arguments, tuple) and value.arguments else None
    if not isinstance(content, bytes):
        raise PickleError("it has a tensor whose storage is of another form")
    # torch.save's format before 1.6: magic number, version, system, the storage's record, its key, length and numbers.
    file = BytesIO(content)
    magic, _, _, record, keys = (_parse(file) for _ in range(5))
    named = record.arguments if isinstance(record, Made) else None
    if magic != MAGIC or not isinstance(named, tuple) or len(named) < 5 or named[0] != "storage":
        raise PickleError("it has a storage of another form")
    kind, key, length = named[1], named[2], named[4]
    name = _DTYPES.get(kind.name) if isinstance(kind, Global) and kind.module == "torch" else None
    if name is None or not isinstance(key, str) or keys != [key] or type(length) is not int or length < 0:
        raise PickleError("it has a storage of another form")
    dtype = getattr(torch, name)
    counted, raw = int.from_bytes(file.read(8), "little"), bytearray(file.read())
    if counted != length or len(raw) != length * dtype.itemsize:
        raise PickleError("it has a storage of another length than it says")
    return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
