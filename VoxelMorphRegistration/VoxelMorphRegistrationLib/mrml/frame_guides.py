"""What guides or measures the registration of a sequence (4D) and changes with its frames: segmentations, landmarks,
masks and further volumes.

On the moving side they are sequences, too, whose items belong to the frames by their index values, as in one browser.
A frame for which one has no item is registered without it. On the fixed side they stay; only where the frames are
registered onto one of them, that frame's item can be chosen by the node that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..registration.settings import Settings
from .frames import browser_of, frame_title, shown_sequence
from .names import SIDE_ROLES

_LABELS = ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")
# By the last word of an argument's name: what messages call it, and what its frames are.
_KINDS = {
    "Labels": ("segmentation", _LABELS),
    "Points": ("landmarks", ("vtkMRMLMarkupsFiducialNode",)),
    "Mask": ("mask", _LABELS),
}
# Given once for each side. What is measured or compared on both sides is left out on both.
SINGLE = tuple(f"{side}{kind}" for kind in _KINDS for side in ("fixed", "moving"))
SEVERAL = ("furtherFixed", "furtherMoving")


@dataclass(frozen=True)
class _Given:
    """A node that was given. name: of the argument; place: which of several."""

    name: str
    place: int
    node: Any

    @property
    def side(self) -> str:
        return "fixed" if self.name.startswith("fixed") or self.name == "furtherFixed" else "moving"

    @property
    def title(self) -> str:
        kind = self.name.removeprefix(self.side)
        what = _KINDS[kind][0] if kind in _KINDS else f"volume {self.place + 2}"
        return f"{self.side} {what} '{self.node.GetName()}'"

    @property
    def classes(self) -> tuple[str, ...]:
        kind = self.name.removeprefix(self.side)
        return _KINDS[kind][1] if kind in _KINDS else ("vtkMRMLScalarVolumeNode",)

    @property
    def sequence(self) -> Any:
        """The sequence that the node is, or shows a frame of; None where it stays the same."""
        return self.node if self.node.IsA("vtkMRMLSequenceNode") else shown_sequence(self.node)[0]


def _all_given(given: Mapping[str, Any]) -> Iterator[_Given]:
    for name in SINGLE:
        if given.get(name) is not None:
            yield _Given(name, 0, given[name])
    for name in SEVERAL:
        for place, node in enumerate(given.get(name) or ()):
            yield _Given(name, place, node)


def check_guides(sequence, given: Mapping[str, Any], frame: int | None = None) -> None:
    """Raise InputError for a guide that does not go with the frames of a sequence.

    given: nodes by the names that registerAsync of the logic takes, further ones as lists. frame: the one, from 0,
    that the others are registered onto; None where they are registered onto another volume.
    """
    values = [sequence.GetNthIndexValue(n) for n in range(sequence.GetNumberOfDataNodes())]
    for one in _all_given(given):
        own = one.sequence
        if own is None and one.side == "fixed":
            continue
        if own is None:
            raise InputError(
                f"The {one.title} belongs to one frame, and all frames are registered. Choose a node that shows a "
                "sequence of them, one for each frame, or leave the choice empty."
            )
        if own.GetNumberOfDataNodes() and own.GetDataNodeClassName() not in one.classes:
            raise InputError(f"The {one.title} shows a sequence of another kind of nodes. Choose another one.")
        if one.side == "fixed":
            if frame is None:
                raise InputError(
                    f"The {one.title} changes with the frames, and what they are registered onto does not. Choose one "
                    "that stays, or leave the choice empty."
                )
            if own.GetDataNodeAtValue(values[frame]) is None:
                raise InputError(f"The {one.title} has nothing for {frame_title(sequence, frame)}. Choose another one.")
        elif not any(own.GetDataNodeAtValue(value) is not None for value in values):
            raise InputError(
                f"The {one.title} has an item for none of the frames: the index values of '{own.GetName()}' are "
                f"others than those of '{sequence.GetName()}'. Choose one of the same browser."
            )


class FrameGuides:
    """Hidden nodes that stand for the guides while one frame after the other is registered.

    add(class name, name, parent-giving node or None) makes a hidden node. frame: as of check_guides, which must have
    passed.
    """

    def __init__(
        self, sequence, given: Mapping[str, Any], frame: int | None, add: Callable[[str, str, Any], Any]
    ) -> None:
        self._sequence = sequence
        self._all = list(_all_given(given))
        self._hidden: dict[tuple[str, int], Any] = {}
        for one in self._all:
            own = one.sequence
            if own is None:
                continue
            shown = browser_of(own)[1] if one.node is own else one.node
            node = add(own.GetDataNodeClassName(), one.node.GetName(), shown)
            self._hidden[one.name, one.place] = node
            if one.side == "fixed":
                assert frame is not None
                node.CopyContent(own.GetDataNodeAtValue(sequence.GetNthIndexValue(frame)), False)

    @property
    def nodes(self) -> tuple:
        return tuple(self._hidden.values())

    def moving_labels_class(self) -> str:
        """The class of the moving segmentation, "" where none is given."""
        return next((one.sequence.GetDataNodeClassName() for one in self._all if one.name == "movingLabels"), "")

    def shown_labels(self) -> Any:
        """The node that shows the moving segmentation of a frame, or None."""
        node = next((one.node for one in self._all if one.name == "movingLabels"), None)
        return browser_of(node)[1] if node is not None and node.IsA("vtkMRMLSequenceNode") else node

    def show(self, number: int) -> None:
        """Let the nodes of the moving side be those of frame `number`; nothing is copied that is large."""
        for one in self._all:
            if one.side == "moving" and one.sequence is not None:
                found = one.sequence.GetDataNodeAtValue(self._sequence.GetNthIndexValue(number))
                if found is not None:
                    self._hidden[one.name, one.place].CopyContent(found, False)

    def _lacking(self, number: int) -> list[_Given]:
        value = self._sequence.GetNthIndexValue(number)
        return [one for one in self._all if one.side == "moving" and one.sequence.GetDataNodeAtValue(value) is None]

    def lacking(self, number: int) -> str:
        """What a frame is registered without, in a sentence; empty where it has all."""
        titles = [one.title for one in self._lacking(number)]
        return f"The {' and the '.join(titles)} {'have' if titles[1:] else 'has'} no such frame." if titles else ""

    def arguments(self, number: int) -> dict:
        """What there is for a frame, by the names that registerAsync takes."""
        left = {(one.name, one.place) for one in self._lacking(number)}
        left |= {(name.replace("moving", "fixed"), place) for name, place in left if not name.endswith("Mask")}
        left |= {("furtherFixed", place) for name, place in left if name == "furtherMoving"}
        found: dict[str, Any] = {}
        for one in self._all:
            if (one.name, one.place) in left:
                continue
            node = self._hidden.get((one.name, one.place), one.node)
            if one.name in SEVERAL:
                found.setdefault(one.name, []).append(node)
            else:
                found[one.name] = node
        return found

    def settings(self, settings: Settings, number: int) -> Settings:
        """The settings without the weights of what a frame lacks."""
        lacking = self._lacking(number)
        names = {one.name for one in lacking}
        lost = {one.place + 1 for one in lacking if one.name == "furtherMoving"}
        channels = {
            name: tuple(value for n, value in enumerate(getattr(settings, name)) if n not in lost)
            for name in ("channel_weights", "channel_similarities")
        }
        return settings.replace(
            label_weight=0.0 if "movingLabels" in names else settings.label_weight,
            landmark_weight=0.0 if "movingPoints" in names else settings.landmark_weight,
            **channels,
        )

    def mark_sides(self, transform) -> None:
        """Note on a transform which nodes were given for each side."""
        for side, role in SIDE_ROLES.items():
            transform.RemoveNodeReferenceIDs(role)
            for one in self._all:
                if one.side == side and one.node.GetScene() is not None and not one.node.IsA("vtkMRMLSequenceNode"):
                    transform.AddNodeReferenceID(role, one.node.GetID())
