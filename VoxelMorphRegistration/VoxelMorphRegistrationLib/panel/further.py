"""Further volumes of each side (T2 or FLAIR beside T1): which are chosen, what stands against them, and their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

# Rows of the panel. The console takes any number.
PAIRS = (1, 2, 3)
NODES = tuple(f"further{side}{n}" for n in PAIRS for side in ("Fixed", "Moving"))


def two_of(parameters, n: int) -> tuple:
    """The fixed and the moving volume of a row; None where none is chosen."""
    return getattr(parameters, f"furtherFixed{n}"), getattr(parameters, f"furtherMoving{n}")


def chosen_rows(parameters) -> list[int]:
    """The rows in which something is chosen."""
    return [n for n in PAIRS if any(node is not None for node in two_of(parameters, n))]


def further_nodes(parameters) -> dict:
    """What registerAsync of the logic takes for the choices."""
    both = [two_of(parameters, n) for n in chosen_rows(parameters)]
    return {"furtherFixed": [fixed for fixed, _moving in both], "furtherMoving": [moving for _fixed, moving in both]}


def channel_weights(parameters) -> tuple[float, ...]:
    """Of the first two volumes and of those in the rows; () where all are the same."""
    weights = [round(getattr(parameters, f"furtherWeight{n}"), 6) for n in chosen_rows(parameters)]
    return (1.0, *weights) if any(weight != 1.0 for weight in weights) else ()


def further_obstacle(parameters, onto_frame: bool = False) -> str:
    """Why the registration cannot start, in a sentence; empty when nothing is known against it.

    onto_frame: one node may show what all frames have, and the frame that they are registered onto.
    """
    seen = [(parameters.fixedVolume, parameters.movingVolume)]
    for n in chosen_rows(parameters):
        two = two_of(parameters, n)
        for node, side, other in zip(two, (_("fixed"), _("moving")), (_("moving"), _("fixed")), strict=True):
            if node is None:
                return _("A {other} volume {number} is chosen without a {side} one; choose both, or none").format(
                    number=n + 1, side=side, other=other
                )
        if two[0] is two[1] and not onto_frame:
            return _("Fixed and moving volume {number} are the same; choose two").format(number=n + 1)
        if any(two[0] is fixed and two[1] is moving for fixed, moving in seen):
            return _("The volumes {number} are compared already; choose others, or none").format(number=n + 1)
        seen.append(two)
    if len(seen) > 1 and parameters.refinement == "off":
        return _("Further volumes guide the refinement, which is off; choose a refinement, or no further volumes")
    return ""


class FurtherSection:
    """Shows a row more than is filled, and leaves the choices when they belong to another pair.

    pair_of(parameters) gives the IDs of fixed and moving volume.
    """

    def __init__(self, ui, pair_of: Callable[[Any], tuple]) -> None:
        self._ui, self._pair_of = ui, pair_of
        self._parameters: Any = None
        self._pair: tuple = ()
        self._title = ui.furtherCollapsibleButton.text
        self._tell("")

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters
        self._pair = ()
        self._tell("")

    def update(self) -> None:
        parameters = self._parameters
        self._follow(self._pair_of(parameters))
        rows = chosen_rows(parameters)
        whole = [n for n in rows if None not in two_of(parameters, n)]
        shown = {*rows} if whole != rows else {*rows, *[n for n in PAIRS if n not in rows][:1]}
        for n in PAIRS:
            for name in (f"furtherFixed{n}Selector", f"furtherMoving{n}Selector", f"furtherWeight{n}SpinBox"):
                visible = n in (rows if "Weight" in name else shown)
                getattr(self._ui, name).setVisible(visible)
                getattr(self._ui, f"{name}Label").setVisible(visible)
        if rows:
            self._tell("")
        self._ui.furtherCollapsibleButton.text = (
            _("Further volumes ({count} of each side)").format(count=len(whole)) if rows else self._title
        )

    def _follow(self, pair: tuple) -> None:
        """Another pair: what lay beside the former one says nothing of it."""
        former = self._pair
        if None in pair or pair == former:
            return
        self._pair = pair
        rows = chosen_rows(self._parameters)
        if not former or not rows:
            return
        swapped = pair == former[::-1]
        with slicer.util.NodeModify(self._parameters):
            for n in rows:
                fixed, moving = two_of(self._parameters, n)
                setattr(self._parameters, f"furtherFixed{n}", moving if swapped else None)
                setattr(self._parameters, f"furtherMoving{n}", fixed if swapped else None)
        if not swapped:
            self._ui.furtherCollapsibleButton.collapsed = False
            self._tell(_("The further volumes belonged to the former pair and are no longer chosen."))

    def _tell(self, text: str) -> None:
        self._ui.furtherLabel.text = text
        self._ui.furtherLabel.setVisible(bool(text))
