"""Frames of a sequence, where a node shows one of them."""

from __future__ import annotations

from .names import FRAME_ATTRIBUTE, RUN_ATTRIBUTE, SEQUENCE_ROLE


def frame_of(node) -> str:
    """Which frame of a sequence a node shows, such as "frame 3 of 10 (time 2.5 s)"; "" where it is no proxy of one."""
    if node.GetAttribute(FRAME_ATTRIBUTE) and not node.GetAttribute(RUN_ATTRIBUTE):
        # A frame that was taken out of its sequence to be registered.
        return node.GetAttribute(FRAME_ATTRIBUTE)
    sequence, browser = shown_sequence(node)
    if sequence is None:
        return ""
    number = browser.GetSelectedItemNumber()
    if number < 0 or number >= browser.GetNumberOfItems():
        return ""
    return frame_title(browser.GetMasterSequenceNode() or sequence, number)


def frame_title(sequence, number: int) -> str:
    """Frame `number`, from 0, of a sequence in words."""
    value = f"{sequence.GetIndexName()} {sequence.GetNthIndexValue(number)} {sequence.GetIndexUnit() or ''}"
    return f"frame {number + 1} of {sequence.GetNumberOfDataNodes()} ({value.strip()})"


def shown_sequence(node) -> tuple:
    """The sequence that a node shows a frame of, and its browser; (None, None) for other nodes."""
    scene = node.GetScene() if node is not None else None
    if scene is None:
        return None, None
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(n, "vtkMRMLSequenceBrowserNode")
        if browser.IsProxyNode(node.GetID()):
            sequence = browser.GetSequenceNode(node)
            if sequence is not None:
                return sequence, browser
    return None, None


def browser_of(sequence) -> tuple:
    """The browser that shows a sequence, and the node that shows its frames; (None, None) where none does."""
    scene = sequence.GetScene()
    for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(n, "vtkMRMLSequenceBrowserNode")
        proxy = browser.GetProxyNode(sequence)
        if proxy is not None:
            return browser, proxy
    return None, None


def results_sequence(node):
    """The sequence of results that a node shows one of, whichever it is just now; None for other nodes."""
    return node.GetNodeReference(SEQUENCE_ROLE) if node is not None else None
