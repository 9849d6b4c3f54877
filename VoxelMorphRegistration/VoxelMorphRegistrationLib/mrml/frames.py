"""Frames of a sequence, where a node shows one of them."""

from __future__ import annotations


def frame_of(node) -> str:
    """Which frame of a sequence a node shows, such as "frame 3 of 10 (time 2.5 s)"; "" where it is no proxy of one."""
    scene = node.GetScene()
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(n, "vtkMRMLSequenceBrowserNode")
        if not browser.IsProxyNode(node.GetID()):
            continue
        sequence, number = browser.GetSequenceNode(node), browser.GetSelectedItemNumber()
        if sequence is None or number < 0 or number >= browser.GetNumberOfItems():
            return ""
        master = browser.GetMasterSequenceNode() or sequence
        value = f"{master.GetIndexName()} {master.GetNthIndexValue(number)} {master.GetIndexUnit() or ''}"
        return f"frame {number + 1} of {browser.GetNumberOfItems()} ({value.strip()})"
    return ""
