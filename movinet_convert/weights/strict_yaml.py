"""A safe subset of YAML for data files: mappings, lists and plain values.

ruamel.yaml refuses duplicate keys and a second document. This module also refuses tags, aliases
(with which a small file expands to a huge one), and more nesting, values or digits than any
manifest has.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

MAX_BYTES = 2 << 20
MAX_DEPTH = 20
MAX_NODES = 50_000  # takes some seconds; a converted version has about sixty
MAX_DIGITS = 100  # Python itself refuses decimal integers from 4,300 on
LINE_WIDTH = 100
TAG = "tag:yaml.org,2002:"


class StrictYamlError(Exception):
    """The problem, and its line, counted from 1."""

    def __init__(self, problem: str, line: int = 1) -> None:
        self.problem = " ".join(problem.split())
        self.line = line
        super().__init__(self.problem)


def load(text: str) -> tuple[Any, Node]:
    """The document in ``text`` as plain Python values, and its nodes for ``line_of``.

    Raises StrictYamlError for text that is not YAML, or not in the safe subset.
    """
    if len(text) > MAX_BYTES:
        raise StrictYamlError(f"longer than {MAX_BYTES:,} characters")
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    try:
        node = yaml.compose(text)
        return (None if node is None else yaml.constructor.construct_document(node)), node
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise StrictYamlError(f"{error.reason}: U+{error.character:04X}", line) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # Otherwise the values of a duplicate key would be quoted in full.
        problem = str(error.problem).split(" with value ")[0]
        problem = ", ".join(filter(None, (error.context, problem)))
        raise StrictYamlError(problem[:200], mark.line + 1 if mark else 1) from None
    except (YAMLError, ValueError) as error:
        raise StrictYamlError(str(error)[:200]) from None


def dump(data: Any) -> str:
    """Block-style YAML with keys in their order; the same data give the same text."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = False
    yaml.width = LINE_WIDTH
    target = StringIO()
    yaml.dump(data, target)
    return target.getvalue()


def line_of(node: Node, path: Sequence[str | int]) -> int:
    """The line of the deepest step of ``path`` that is in the document, counted from 1."""
    line = 1
    for step in path:
        if isinstance(node, MappingNode):
            children = {key.value: (key, value) for key, value in node.value}
        elif isinstance(node, SequenceNode):
            children = {index: (item, item) for index, item in enumerate(node.value)}
        else:
            break
        if step not in children:
            break
        key, node = children[step]
        line = key.start_mark.line + 1
    return line


class _Composer(Composer):
    """Composes nodes, and refuses what is not in the safe subset."""

    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        self.nodes += 1
        if isinstance(event, AliasEvent) or event.anchor is not None:
            _refuse("anchors and aliases are not allowed", event)
        if event.ctag is not None:
            _refuse("tags are not allowed", event)
        if isinstance(parent, MappingNode) and index is None and not isinstance(event, ScalarEvent):
            _refuse("a key must be a plain word", event)
        if self.nodes > MAX_NODES:
            _refuse(f"more than {MAX_NODES:,} values", event)
        if self.depth == MAX_DEPTH:
            _refuse(f"nested more than {MAX_DEPTH} levels deep", event)
        node = super().compose_node(parent, index)
        if isinstance(node, ScalarNode):
            if node.tag in (f"{TAG}int", f"{TAG}float") and len(node.value) > MAX_DIGITS:
                _refuse("a number is too long", event)
            if node.tag == f"{TAG}timestamp":
                node.tag = f"{TAG}str"
        return node


def _refuse(problem: str, event: Any) -> NoReturn:
    raise StrictYamlError(problem, event.start_mark.line + 1)
