"""YAML as a data file needs it: mappings, lists and plain values, and nothing that can hurt.

PyYAML's own loaders follow aliases, which lets a small file stand for a huge one, take the last of
two equal keys, construct what tags ask for, and overflow the C stack on deep nesting. Here the
parser's events are walked instead: no recursion, and work in proportion to the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 2 << 20
MAX_DEPTH = 20
MAX_VALUES = 100_000  # about a second's work; a converted version has some twenty
MAX_NUMBER = 100  # characters; Python itself refuses decimal integers from 4,300 on

# Everything else that YAML 1.1 sees in a bare word (a date, say) stays the string it is.
PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))

NodePath = tuple[str | int, ...]


class StrictYamlError(Exception):
    """What is wrong, and in which line, counted from 1."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


def load(text: str) -> Any:
    """The one document in ``text`` as dicts with string keys, lists and plain values.

    Raises StrictYamlError for what is not YAML, and for aliases, tags, equal keys, keys that are
    no plain words, a second document, and more depth or length than a manifest ever needs.
    """
    document: Any = None
    containers: list[Any] = [None] * (MAX_DEPTH + 1)  # the open one of each depth
    for path, _, event in _nodes(text):
        value = _value(event)
        containers[len(path)] = value
        if not path:
            document = value
        elif isinstance(parent := containers[len(path) - 1], dict):
            parent[path[-1]] = value
        else:
            parent.append(value)
    return document


def line_of(text: str, path: NodePath) -> int:
    """The line of the deepest part of ``path`` that stands in the text, counted from 1."""
    found, depth = 1, 0
    for here, line, _ in _nodes(text):
        if len(here) > depth and path[: len(here)] == here:
            found, depth = line, len(here)
    return found


@dataclass
class _Open:
    """A mapping or a sequence whose end has not been seen."""

    path: NodePath
    is_mapping: bool
    keys: set[str] = field(default_factory=set)
    key: str | None = None
    key_line: int = 0
    length: int = 0

    def wants_key(self) -> bool:
        return self.is_mapping and self.key is None

    def take_key(self, event: yaml.Event) -> None:
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent):
            raise StrictYamlError("a key that is no plain word", line)
        if event.value in self.keys:
            raise StrictYamlError(f"the key {event.value[:60]!r} stands twice", line)
        self.keys.add(event.value)
        self.key, self.key_line = event.value, line

    def place_next(self, event: yaml.Event) -> tuple[NodePath, int]:
        """Where the value that ``event`` begins belongs, and the line that names it."""
        if self.is_mapping:
            step, line = self.key, self.key_line
            self.key = None
            assert step is not None
            return (*self.path, step), line
        self.length += 1
        return (*self.path, self.length - 1), _line(event)


def _nodes(text: str) -> Iterator[tuple[NodePath, int, yaml.Event]]:
    """Every value with its path and line, parents before their children."""
    stack: list[_Open] = []
    seen_document = False
    values = 0
    for event in _events(text):
        if isinstance(event, yaml.DocumentStartEvent):
            if seen_document:
                raise StrictYamlError("a second document", _line(event))
            seen_document = True
        elif isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        elif isinstance(event, yaml.NodeEvent):
            _refuse_indirection(event)
            if stack and stack[-1].wants_key():
                stack[-1].take_key(event)
                continue
            path, line = stack[-1].place_next(event) if stack else ((), _line(event))
            values += 1
            if values > MAX_VALUES:
                raise StrictYamlError(f"more than {MAX_VALUES:,} values", line)
            yield path, line, event
            if isinstance(event, yaml.CollectionStartEvent):
                if len(stack) == MAX_DEPTH:
                    raise StrictYamlError(f"nested more than {MAX_DEPTH} levels deep", line)
                stack.append(_Open(path, isinstance(event, yaml.MappingStartEvent)))


def _events(text: str) -> Iterator[yaml.Event]:
    if len(text) > MAX_BYTES:
        raise StrictYamlError(f"longer than {MAX_BYTES:,} characters", 1)
    try:
        yield from yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except UnicodeEncodeError:
        raise StrictYamlError("half of a surrogate pair, which is no text", 1) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise StrictYamlError(str(problem), mark.line + 1 if mark else 1) from None


def _refuse_indirection(event: yaml.NodeEvent) -> None:
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise StrictYamlError("anchors and aliases are not allowed", _line(event))
    if getattr(event, "tag", None) is not None:
        raise StrictYamlError("tags are not allowed", _line(event))


def _value(event: yaml.Event) -> Any:
    """An empty container, or what a scalar stands for."""
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    assert isinstance(event, yaml.ScalarEvent)
    resolver: Any = yaml.resolver.Resolver()
    tag = resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag not in PLAIN_TAGS:
        return event.value
    if len(event.value) > MAX_NUMBER:
        raise StrictYamlError("a number that is too long", _line(event))
    try:
        node = yaml.ScalarNode(tag, event.value)
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, OverflowError):
        raise StrictYamlError(f"{event.value!r} is no number", _line(event)) from None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1
