"""Results in the subject hierarchy: in the study of the fixed volume, so that they can be exported as its DICOM."""

from __future__ import annotations

import slicer


def place_beside(node, fixed_node) -> None:
    """Put a node under the same parent item as the fixed volume, which is its study, folder or the scene itself.

    Patient and study attributes are those of the parents, and are read from there by Slicer's DICOM export.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None:
        return
    fixed_item, item = (hierarchy.GetItemByDataNode(one) for one in (fixed_node, node))
    nothing = hierarchy.GetInvalidItemID()
    if fixed_item == nothing:
        return
    parent = hierarchy.GetItemParent(fixed_item)
    if parent in (nothing, hierarchy.GetSceneItemID()):
        return
    if item == nothing:
        # Slicer's application makes an item of each node; without it none is there.
        hierarchy.CreateItem(parent, node)
    else:
        hierarchy.SetItemParent(item, parent)
