"""Nodes as they were, to be put back when writing fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .hierarchy import leave
from .names import LINEAR_ROLE

if TYPE_CHECKING:
    from .nodes import Node, Scene, Shown


@dataclass(frozen=True)
class _Saved:
    """A node with a copy of its content outside the scene and the ids it refers to."""

    node: Any
    copy: Any
    references: dict[str, str | None]
    segmentation: Any = None

    @staticmethod
    def of(node) -> _Saved:
        # Bulk data is shared, since writers replace it; so is what a segmentation node holds, whose copies take long.
        references = {role: node.GetNodeReferenceID(role) for role in _roles(node)}
        if node.IsA("vtkMRMLSegmentationNode"):
            attributes = {name: node.GetAttribute(name) for name in node.GetAttributeNames()}
            return _Saved(node, attributes, references, node.GetSegmentation())
        copy = node.CreateNodeInstance()
        copy.CopyContent(node, False)
        return _Saved(node, copy, references)

    def restore(self) -> None:
        if self.segmentation is not None:
            if self.node.GetSegmentation() is not self.segmentation:
                self.node.SetAndObserveSegmentation(self.segmentation)
            for name in {*self.node.GetAttributeNames(), *self.copy}:
                self.node.SetAttribute(name, self.copy.get(name))
        else:
            self.node.CopyContent(self.copy, False)
        for role in _roles(self.node) | set(self.references):
            old = self.references.get(role)
            if self.node.GetNodeReferenceID(role) != old:
                self.node.SetAndObserveNodeReferenceID(role, old)


def _roles(node: Node) -> set[str]:
    return {node.GetNthNodeReferenceRole(n) for n in range(node.GetNumberOfNodeReferenceRoles())}


@contextmanager
def all_or_nothing(scene: Scene, placed: Shown, nodes: list) -> Iterator[None]:
    """Undo on any error: nodes added meanwhile are removed, and `placed` and `nodes` are as before, the latter with
    their display nodes, whose copies take long."""
    before = {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}
    watched: list = []
    for node in (placed, *nodes):
        companion = node.GetNodeReference(LINEAR_ROLE)
        shown = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
        if node is placed:
            # It is put under another node, and shown as before.
            shown = []
        watched += [n for n in (node, companion, *shown) if n is not None and n not in watched]
    saved = [_Saved.of(node) for node in watched]
    try:
        yield
    except BaseException:
        for one in saved:
            one.restore()
        for node in [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]:
            if node is not None and node.GetID() not in before:
                leave(node)
                scene.RemoveNode(node)
        raise
