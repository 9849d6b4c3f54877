"""Results in the subject hierarchy: in the study of the fixed volume, so that they can be exported as its DICOM."""

from __future__ import annotations

import slicer

_NAMES = slicer.vtkMRMLSubjectHierarchyConstants
_INSTANCES = _NAMES.GetDICOMInstanceUIDName()
_REFERENCED = _NAMES.GetDICOMReferencedInstanceUIDsAttributeName()
# Of the series: the fixed volume's space, the moving volume's kind of image.
_FRAME, _MODALITY = _NAMES.GetDICOMFrameOfReferenceUIDAttributeName(), _NAMES.GetDICOMSeriesModalityAttributeName()


def place_beside(node, fixed_node, moving_node=None) -> None:
    """Put a node under the same parent item as the fixed volume, which is its study, folder or the scene itself.

    Patient and study attributes are those of the parents, and are read from there by Slicer's DICOM export. The item
    says in whose space it lies, which images it was made of, and of which modality it is, as far as both volumes say.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None:
        return
    nothing = hierarchy.GetInvalidItemID()
    fixed_item = hierarchy.GetItemByDataNode(fixed_node)
    if fixed_item == nothing:
        return
    parent = hierarchy.GetItemParent(fixed_item)
    if parent in (nothing, hierarchy.GetSceneItemID()):
        return
    item = hierarchy.GetItemByDataNode(node)
    if item == nothing:
        # Slicer's application makes an item of each node; without it none is there.
        item = hierarchy.CreateItem(parent, node)
    else:
        hierarchy.SetItemParent(item, parent)
    moving_item = nothing if moving_node is None else hierarchy.GetItemByDataNode(moving_node)
    sources = [one for one in (fixed_item, moving_item) if one != nothing]
    instances = " ".join(hierarchy.GetItemUID(one, _INSTANCES) or "" for one in sources).split()
    for attribute, value in (
        (_FRAME, hierarchy.GetItemAttribute(fixed_item, _FRAME)),
        (_MODALITY, "" if moving_item == nothing else hierarchy.GetItemAttribute(moving_item, _MODALITY)),
        (_REFERENCED, " ".join(instances)),
    ):
        if value:
            hierarchy.SetItemAttribute(item, attribute, value)


def leave(node) -> None:
    """Remove a node's item, which outlives the node where no application watches; the node stays."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if hierarchy is not None and item != hierarchy.GetInvalidItemID():
        hierarchy.RemoveItem(item, False, False)
