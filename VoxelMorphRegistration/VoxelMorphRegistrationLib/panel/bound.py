"""The module's parameter node: one wrapper for each node, and its widgets bound to it and let go again."""

from __future__ import annotations

import functools
import typing
from typing import Any

import vtk

_kept: list[Any] = []


def wrapper_of(wrapper_class: Any, node) -> Any:
    """The wrapper of a parameter node, always the same one; kept for as long as Slicer runs.

    It observes its node for ever. Once nothing in Python but that observer refers to the two, Python's collector takes
    them apart although the node lives on in the scene, and the next change of the node crashes (seen with VTK 9.6). A
    new one at each entry of the module would make each change of a choice slower.

    Values that a parameter cannot have, as scenes of other versions and damaged ones bring them, give way to the
    default: the wrapper raises at whatever it cannot read, and does not look at choices and ranges.
    """
    _mend(wrapper_class, node)
    for one in _kept:
        if type(one) is wrapper_class and one.parameterNode is node:
            # It holds the values of the last ModifiedEvent; nodes that a loaded scene brings come after that.
            one.Modified()
            return one
    wrapper = wrapper_class(node)
    # Before the wrapper reads what a loaded scene has brought.
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: _mend(wrapper_class, caller), 2.0)
    _kept.append(wrapper)
    return wrapper


def _mend(wrapper_class: Any, node) -> None:
    for name, kind, limits in _limited(wrapper_class):
        # The wrapper puts a default in the place of what is missing.
        if node.HasParameter(name) and not _fits(node.GetParameter(name), kind, limits):
            node.UnsetParameter(name)


@functools.cache
def _limited(wrapper_class: Any) -> tuple[tuple[str, type, tuple], ...]:
    """Name, type and limits of the parameters that not any text can be."""
    found = []
    for name, hint in typing.get_type_hints(wrapper_class, include_extras=True).items():
        kind, *limits = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        if kind in (int, float, str):
            found.append((name, kind, tuple(limits)))
    return tuple(found)


def _fits(text: str, kind: type, limits: tuple) -> bool:
    try:
        value = kind(text)
    except ValueError:
        return False
    return all(
        value in getattr(limit, "choices", [value])
        and getattr(limit, "minimum", value) <= value <= getattr(limit, "maximum", value)
        for limit in limits
    )


class Binding:
    """Widgets connected both ways to the parameters that the .ui file names for them, while `parameters` is set.

    connectGui of the parameter node would find the widgets itself, but returns no tag to disconnect them with; what
    stays connected sets every list of choices back to its first one when the module is entered again (Slicer's issues
    7545 and 7547). disconnectGui leaves the observer behind that connecting added, so it is taken off here.
    """

    def __init__(self, widgets) -> None:
        named = ((widget.property("SlicerParameterName"), widget) for widget in widgets)
        self._widgets = {name: widget for name, widget in named if name}
        self._connected: tuple | None = None

    def connect(self, parameters) -> None:
        """Bind the widgets to these parameters; None for nothing."""
        if self._connected is not None:
            former, tag, added = self._connected
            former.disconnectGui(tag)
            for one in added:
                former.RemoveObserver(one)
            self._connected = None
        if parameters is None:
            return
        observers: list[int] = []

        def noted(event, callback, priority: float = 0.0) -> int:
            observers.append(parameters.parameterNode.AddObserver(event, callback, priority))
            return observers[-1]

        parameters.AddObserver = noted
        try:
            tag = parameters.connectParametersToGui(self._widgets)
        finally:
            del parameters.AddObserver
        self._connected = parameters, tag, observers
