"""Stands in for slicer.parameterNodeWrapper: typed parameters on a MRML node, bound both ways to widgets.

As strict as Slicer's: a parameter type or a widget that the real one does not take raises here, too. And with its
faults: values are those of the last ModifiedEvent, connectGui returns no tag to disconnect with (Slicer's issue 7547),
and a list of choices is emptied and filled anew by each connection (issue 7545).
"""

from __future__ import annotations

import contextlib
import typing
import weakref

import vtk

__all__ = ["Choice", "Default", "WithinRange", "parameterNodeWrapper"]


class Default:
    def __init__(self, value) -> None:
        self.value = value


class Choice:
    def __init__(self, choices) -> None:
        self.choices = list(choices)

    def check(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"Value '{value}' is not one of {self.choices}")


class WithinRange:
    def __init__(self, minimum, maximum) -> None:
        self.minimum, self.maximum = minimum, maximum

    def check(self, value) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


def _node_classes(annotation) -> list[type]:
    """The MRML classes of a node type or of typing.Union[node types, None]; empty for anything else."""
    kinds = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Union else (annotation,)
    classes = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, vtk.vtkObject)]
    others = [kind for kind in kinds if kind not in classes and kind is not type(None)]
    return [] if others else classes


class _Parameter:
    """One annotated attribute: str, bool, int, float, a MRML node class or a union of these classes with None."""

    def __init__(self, name: str, annotation, assigned) -> None:
        self.name = name
        annotated = typing.get_origin(annotation) is typing.Annotated
        self.type, *extras = typing.get_args(annotation) if annotated else (annotation,)
        self.classes = _node_classes(self.type)
        if len(self.classes) > 1 and type(None) not in typing.get_args(self.type):
            raise RuntimeError(f"'{name}' cannot be empty: a union of nodes needs None")
        self.is_node = bool(self.classes)
        if self.type not in (str, bool, int, float) and not self.is_node:
            raise RuntimeError(f"No serializer for {annotation} of '{name}' in this stand-in")
        self.choice = next((extra for extra in extras if isinstance(extra, Choice)), None)
        self.range = next((extra for extra in extras if isinstance(extra, WithinRange)), None)
        default = next((extra.value for extra in extras if isinstance(extra, Default)), assigned)
        self.default = default if default is not None or self.is_node else self.type()
        self.check(self.default)

    def check(self, value) -> None:
        for validator in (self.choice, self.range):
            if validator is not None:
                validator.check(value)

    def read(self, node):
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return text == "True" if self.type is bool else self.type(text)

    def write(self, node, value) -> None:
        if self.is_node:
            # The real one keeps an empty parameter of the name beside the reference.
            node.SetParameter(self.name, "")
            if value is not None and not isinstance(value, tuple(self.classes)):
                raise TypeError(f"Value of type '{type(value)}' is not of type '{self.type}'")
            node.SetNodeReferenceID(self.name, None if value is None else value.GetID())
            node.Modified()
            return
        kinds = (int, float) if self.type is float else self.type
        if not isinstance(value, kinds) or (self.type is int and isinstance(value, bool)):
            raise TypeError(f"Value of type '{type(value)}' is not of type '{self.type}'")
        self.check(value)
        node.SetParameter(self.name, str(value))


class _Connector:
    """One widget and one parameter. Which widgets fit which type is Slicer's rule, by exact class."""

    KINDS: typing.ClassVar[dict] = {
        (str, "QComboBox"): ("currentIndex", "currentIndexChanged"),
        (str, "QLineEdit"): ("text", "textChanged"),
        (bool, "QCheckBox"): ("checked", "stateChanged"),
        (bool, "QPushButton"): ("checked", "toggled"),
        (int, "QSpinBox"): ("value", "valueChanged"),
        (float, "QDoubleSpinBox"): ("value", "valueChanged"),
        (float, "ctkSliderWidget"): ("value", "valueChanged"),
    }

    def __init__(self, widget, parameter: _Parameter) -> None:
        self.widget, self.parameter = widget, parameter
        kind = type(widget).__name__
        if parameter.is_node:
            if kind != "qMRMLNodeComboBox":
                raise RuntimeError(f"Unable to create GUI connector from '{parameter.type}' to '{kind}'")
            # As the real one does, whatever the .ui file says; an abstract class fails here, too.
            widget.nodeTypes = [cls().GetClassName() for cls in parameter.classes]
            self.changed = widget.currentNodeChanged
            return
        if (parameter.type, kind) not in self.KINDS:
            raise RuntimeError(f"Unable to create GUI connector from '{parameter.type}' to '{kind}'")
        self.attribute, signal = self.KINDS[parameter.type, kind]
        if kind == "QComboBox":
            if parameter.choice is None:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            widget.clear()
            for choice in parameter.choice.choices:
                widget.addItem(choice)
        if parameter.type in (int, float):
            if parameter.range is None:
                raise RuntimeError(f"'{parameter.name}' has no range")
            widget.minimum, widget.maximum = parameter.range.minimum, parameter.range.maximum
        self.changed = getattr(widget, signal)

    def read(self):
        if self.parameter.is_node:
            return self.widget.currentNode()
        value = getattr(self.widget, self.attribute)
        return self.parameter.choice.choices[value] if self.attribute == "currentIndex" else value

    def write(self, value) -> None:
        if self.parameter.is_node:
            self.widget.setCurrentNode(value)
        elif self.attribute == "currentIndex":
            self.widget.currentIndex = self.parameter.choice.choices.index(value)
        else:
            setattr(self.widget, self.attribute, value)


class _Wrapper:
    """The methods that a wrapped class gets."""

    def __init__(self, parameterNode) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, list] = {}
        self._values: dict[str, object] = {}
        self._count = 0
        self._updating = False
        self._writing: list[str] = []
        for parameter in self._parameters.values():
            if not parameterNode.HasParameter(parameter.name):
                parameter.write(parameterNode, parameter.default)
        self._read_all()
        # VTK calls the very first observer of an object last; the values must be new for all others.
        weak = weakref.ref(self)
        self._tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: weak()._read_all(), 1.0)

    def __del__(self) -> None:
        self.RemoveObserver(self._tag)

    def _read_all(self) -> None:
        for parameter in self._parameters.values():
            if not self.parameterNode.HasParameter(parameter.name):
                # After the scene was closed.
                parameter.write(self.parameterNode, parameter.default)
            if parameter.name not in self._writing:
                self._values[parameter.name] = parameter.read(self.parameterNode)

    def _set(self, name: str, value) -> None:
        self._writing.append(name)
        editing = self.StartModify()
        try:
            self._parameters[name].write(self.parameterNode, value)
            self._values[name] = self._parameters[name].read(self.parameterNode)
        finally:
            self.EndModify(editing)
            self._writing.remove(name)

    def default(self, name: str) -> Default:
        return Default(self._parameters[name].default)

    def connectGui(self, gui) -> None:
        named = ((widget.property("SlicerParameterName"), widget) for widget in vars(gui).values())
        self.connectParametersToGui({name: widget for name, widget in named if name})

    def connectParametersToGui(self, mapping: dict) -> int:
        for name in mapping:
            if name not in self._parameters:
                raise ValueError(f"Cannot find a param with the given name: {name}")
        connectors = [_Connector(widget, self._parameters[name]) for name, widget in mapping.items()]
        tag, self._count = self._count, self._count + 1
        self._guis[tag] = connectors
        for connector in connectors:
            connector.write(self._values[connector.parameter.name])
            connector.callback = self._from_gui(connector)
            connector.changed.connect(connector.callback)
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._to_gui(tag))
        return tag

    def disconnectGui(self, tag) -> None:
        for connector in self._guis.pop(tag, ()):
            connector.changed.disconnect(connector.callback)

    def _from_gui(self, connector: _Connector):
        def callback() -> None:
            if not self._updating:
                self._set(connector.parameter.name, connector.read())

        return callback

    def _to_gui(self, tag: int) -> None:
        if self._updating or tag not in self._guis:
            return
        self._updating = True
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self, "_updating", False)
            for connector in self._guis[tag]:
                connector.write(self._values[connector.parameter.name])

    def AddObserver(self, event, callback, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, was: int) -> int:
        return self.parameterNode.EndModify(was)


def parameterNodeWrapper(cls: type) -> type:
    parameters = {}
    for name, annotation in typing.get_type_hints(cls, include_extras=True).items():
        parameters[name] = _Parameter(name, annotation, getattr(cls, name, None))
        setattr(cls, name, _attribute(parameters[name]))
    return type(cls.__name__, (_Wrapper, cls), {"_parameters": parameters, "__doc__": cls.__doc__})


def _attribute(parameter: _Parameter) -> property:
    return property(lambda self: self._values[parameter.name], lambda self, value: self._set(parameter.name, value))
