"""Manifests with field names from before v1.6.0: their reader, and the rewriting of their text.

Only field names in the text are replaced, so that comments, order and layout stay. If this is not possible (a field is
present with both names, or the kind needs more changes) the whole document is written again, and the lost content is
reported.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from mic.startup.object_upgrade import KINDS, with_current_names
from podidentity.exits import StartError
from podidentity.kube.compact_values import without_nulls
from podidentity.old_field_names import fold
from podidentity.resources import GROUP, Kind

STDIN: Final = Path("-")
SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
DEPTH_MAX: Final = 12
"""Depth of fields that can have old field names; the deepest, the secret in the identity that an AzureAssignedIdentity
embeds, is at five.
"""
_COMMENT: Final = re.compile(r"(?:^|\s)#", re.MULTILINE)
_KINDS: Final = {kind.name: kind for kind in KINDS}


class UnreadableError(Exception):
    """The text is not YAML; the message is one line with the position."""


@dataclass(frozen=True)
class ObjectChanges:
    """Changes of one object."""

    about: str
    """Kind, and namespace and name."""
    fields: tuple[str, ...]
    """The former path of each renamed field."""
    lost: tuple[str, ...] = ()
    """Content that the rewritten text does not preserve."""


@dataclass(frozen=True)
class Manifest:
    """One file and its rewritten text."""

    path: Path
    before: str
    text: str
    changes: tuple[ObjectChanges, ...]
    objects: tuple[Mapping[str, Any], ...]
    """Every custom resource in it, with the current field names."""


@dataclass
class _ManifestObject:
    """One custom resource in the text."""

    kind: Kind[Any]
    document: dict[str, Any]
    root: yaml.Node
    """Root node of its document in the text."""
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    clash: bool = False
    """Renaming would produce a duplicate field."""
    target: dict[str, Any] | None = None
    """The object with the current field names; None if it is unchanged."""

    @property
    def present(self) -> dict[str, Any]:
        return self.document if self.target is None else self.target


def read_manifests(paths: Sequence[Path]) -> list[Manifest]:
    """Return the manifests at *paths*; from a directory all files with a known suffix, sorted. Raises StartError."""
    return [_read_manifest(file) for path in paths for file in _files(path)]


def join_manifests(manifests: Sequence[Manifest]) -> str:
    """Return all manifests as one stream of documents. JSON files stay JSON, which YAML permits."""
    texts = [manifest.text for manifest in manifests]
    parts = [text if text.endswith("\n") or not text else f"{text}\n" for text in texts]
    return "".join(
        part if not number or part.startswith(("---", "%")) else f"---\n{part}" for number, part in enumerate(parts)
    )


def _files(path: Path) -> list[Path]:
    # Path.is_dir raises an error for a name that is too long.
    if path == STDIN or not os.path.isdir(path):  # noqa: PTH112
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise StartError(
            f"{path} contains no file that ends in {', '.join(sorted(SUFFIXES))}: pass the manifests themselves"
        )
    return files


def _read_manifest(path: Path) -> Manifest:
    try:
        # As bytes, because a text file's reader changes line ends, which must stay.
        text = (sys.stdin.buffer.read() if path == STDIN else path.read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise StartError(
            f"{path} cannot be read ({reason}): pass a manifest, a directory of them, or - for stdin"
        ) from error
    try:
        return rewrite(text, path)
    except UnreadableError as error:
        raise StartError(f"{path}: {error}; render templates first (helm template), and correct other files") from error


def rewrite(text: str, path: Path = STDIN) -> Manifest:
    """Rewrite the custom resources in *text*, one or more YAML (or JSON) documents; all other text is unchanged.

    Raises UnreadableError.
    """
    items = list(_objects(text))
    roots = {id(item.root): [sibling for sibling in items if sibling.root is item.root] for item in items}
    edits: list[tuple[int, int, str]] = []
    changes: list[ObjectChanges] = []
    for objects in roots.values():
        changed = [item for item in objects if item.target is not None]
        is_rewritten = bool(changed) and not _renaming_suffices(text, objects)
        for item in changed:
            lost = _lost_content(text, item) if is_rewritten else ()
            changes.append(ObjectChanges(object_name(item.kind, item.document), tuple(item.fields), lost))
            edits += [] if is_rewritten else item.edits
        if is_rewritten:
            start, end = objects[0].root.start_mark.index, objects[0].root.end_mark.index
            begins_a_line = text[:start].endswith("\n") or not start
            edits.append(
                (start, end, _rewritten_document(objects) if begins_a_line else f"\n{_rewritten_document(objects)}")
            )
    return Manifest(path, text, _apply_edits(text, edits), tuple(changes), tuple(item.present for item in items))


def object_name(kind: Kind[Any], document: Mapping[str, Any]) -> str:
    """Return kind, namespace and name as text."""
    meta = document.get("metadata")
    meta = meta if isinstance(meta, dict) else {}
    name = "/".join(str(part) for part in (meta.get("namespace"), meta.get("name")) if part)
    return f"{kind.name} {name or '(without a name)'}"


def kind_of(document: object) -> Kind[Any] | None:
    """Return the custom resource kind of *document*, or None."""
    if not isinstance(document, dict) or document.get("apiVersion") != f"{GROUP}/v1":
        return None
    return _KINDS.get(str(document.get("kind")))


def _objects(text: str) -> Iterator[_ManifestObject]:
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            root = loader.get_node()
            if not isinstance(root, yaml.MappingNode):
                continue
            nodes = [root, *_items(root)]
            edited = [
                (node, _ManifestObject(kind, {}, root)) for node in nodes if (kind := _kind_of_node(node)) is not None
            ]
            # First the names of all objects, because constructing a node merges the maps of its `<<` into it.
            for node, item in edited:
                _collect_renames(node, (), item)
            for node, item in edited:
                item.document = loader.construct_document(node)
                item.target = with_current_names(item.kind, item.document)
                yield item
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise UnreadableError(f"{where}{problem}") from error
    except (RecursionError, ValueError) as error:  # an invalid date, for example
        raise UnreadableError(f"cannot be read: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _items(root: yaml.MappingNode) -> list[yaml.MappingNode]:
    """Return the items of a List."""
    for name, value in root.value:
        if isinstance(name, yaml.ScalarNode) and name.value == "items" and isinstance(value, yaml.SequenceNode):
            return [node for node in value.value if isinstance(node, yaml.MappingNode)]
    return []


def _kind_of_node(node: yaml.MappingNode) -> Kind[Any] | None:
    plain = {
        name.value: value.value
        for name, value in node.value
        if isinstance(name, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)
    }
    return kind_of(plain)


def _collect_renames(node: yaml.MappingNode, path: tuple[str, ...], item: _ManifestObject) -> None:
    """Collect the fields of *node*, at *path*, that have a different name now."""
    names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
    present = {name: _current_name(item.kind, (*path, name)) for name in names}
    taken = list(present.values())
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            continue
        now = present[name.value]
        if now != name.value:
            item.clash |= taken.count(now) > 1
            item.fields.append(".".join((*path, name.value)))
            quote = name.style if name.style in {"'", '"'} else ""
            item.edits.append((name.start_mark.index, name.end_mark.index, f"{quote}{now}{quote}"))
        if isinstance(value, yaml.MappingNode) and len(path) < DEPTH_MAX:
            _collect_renames(value, (*path, now), item)


def _current_name(kind: Kind[Any], path: Sequence[str]) -> str:
    """Return the current name for the last name of *path*."""
    # The names depend on the kind's shape, which `fold` reads; a document with only this field has the same ones.
    document: Any = 0
    for name in reversed(path):
        document = {name: document}
    folded: Any = fold(document, kind.shape)
    for _ in path[:-1]:
        (folded,) = folded.values()
    (name,) = folded
    return str(name)


def _renaming_suffices(text: str, objects: Sequence[_ManifestObject]) -> bool:
    """Return whether the document of *objects* is correct after renaming, except for nulls with old field names."""
    if any(item.clash for item in objects):
        return False
    start, end = objects[0].root.start_mark.index, objects[0].root.end_mark.index
    moved = [(first - start, last - start, name) for item in objects for first, last, name in item.edits]
    try:
        after = yaml.safe_load(_apply_edits(text[start:end], moved))
    except (yaml.YAMLError, ValueError):
        return False
    ours = [item for item in [after, *_list_items(after)] if kind_of(item) is not None]
    # The objects of the edited text decide, because anchors and merged maps can give an edit other effects.
    return [without_nulls(item) for item in ours] == [without_nulls(item.present) for item in objects]


def _list_items(document: Any) -> list[Any]:
    items = document.get("items") if isinstance(document, dict) else None
    return items if isinstance(items, list) else []


def _rewritten_document(objects: Sequence[_ManifestObject]) -> str:
    """Return the whole document of *objects*, written again."""
    loader = yaml.SafeLoader("")
    try:
        document = loader.construct_document(objects[0].root)
    finally:
        loader.dispose()
    remaining = iter(objects)
    if kind_of(document):
        document = next(remaining).present
    else:
        document["items"] = [next(remaining).present if kind_of(item) else item for item in document["items"]]
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _lost_content(text: str, item: _ManifestObject) -> tuple[str, ...]:
    lost = []
    if _COMMENT.search(text[item.root.start_mark.index : item.root.end_mark.index]):
        lost.append("comments")
    kept = dict(_leaves(item.present))
    for path, value in _leaves(item.document):
        now = tuple(_current_name(item.kind, path[: place + 1]) for place in range(min(len(path), DEPTH_MAX)))
        if kept.get(now) != value and value is not None:
            lost.append(f"{'.'.join(path)}, because {'.'.join(now)} is also present")
    return tuple(lost)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    else:
        yield path, value


def _apply_edits(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    for start, end, new in sorted(edits, reverse=True):  # from the end, so that the other positions stay valid
        text = text[:start] + new + text[end:]
    return text
