"""Safe YAML without YAML 1.1's traps: `1e-4` is a number, `no` is a text, keys are texts, and none is repeated.

Input cannot exhaust memory or the stack: depth, the size after expanding aliases, and integers are bounded.
"""

import re
from typing import Any

import yaml
from yaml.composer import ComposerError

_MERGE = "tag:yaml.org,2002:merge"
MAX_DEPTH = 32
"""Of nested lists and mappings."""
MAX_NODES = 100_000
"""Values and keys of a file after each alias is replaced by what it stands for."""


class Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 *or* `Loader` would read as something else, so that both read it back."""


class Loader(yaml.SafeLoader):
    """YAML 1.2 scalars on PyYAML's safe loader; repeated keys are an error."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node (PyYAML's hook), bounding the depth."""
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, "nested too deeply", self.peek_event().start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Compose the document (PyYAML's hook), bounding its size."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MAX_NODES:
            raise ComposerError(None, None, "aliases expand to too many values", node.start_mark)
        return node

    def construct_int(self, node: yaml.ScalarNode) -> int | str:
        """Construct an integer; one beyond 64 bits, which no setting accepts, stays a text."""
        digits = str(self.construct_scalar(node)).replace("_", "")
        value = int(digits) if len(digits) < 40 else 2**64
        return value if abs(value) < 2**64 else digits

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping of texts; PyYAML would keep the last of repeated keys silently."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is repeated", key_node.start_mark)
            seen.add(key)
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != _MERGE:
                key_node.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep=deep)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of nodes below a node and itself, aliases expanded; a node within itself counts once."""
    if id(node) not in sizes:
        sizes[id(node)] = 1
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        flat = (each for child in children for each in (child if isinstance(child, tuple) else (child,)))
        sizes[id(node)] += sum(_size(each, sizes) for each in flat)
    return sizes[id(node)]


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_int)

_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")

Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", _BOOL, "tTfF"),
    ("tag:yaml.org,2002:int", _INT, "-+0123456789"),
    ("tag:yaml.org,2002:float", _FLOAT, "-+0123456789."),
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    (_MERGE, re.compile(r"^(?:<<)$"), ["<"]),
):
    Loader.add_implicit_resolver(_tag, _pattern, list(_first))
    Dumper.add_implicit_resolver(_tag, _pattern, list(_first))
