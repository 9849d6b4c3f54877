"""Stands in for what only a running Slicer has: slicer.app, slicer.modules and the MRML widgets.

`start()` puts them into the `slicer` package of slicer-core; scripts and tests call it once. MRML itself is real:
scene, subject hierarchy, sequences with their browsers, segmentations, slice views without windows.

What it shows of what was once missed: where the focus goes when a widget is disabled, how the panel scrolls, how narrow
it can be and what is cut then, what outlives a change of the scene, colours on dark themes, which classes of nodes a
list offers, that a closed question answers with its first choice.

What it cannot show, and is tried in a real Slicer:
- the mouse in the views: placing and dragging points, playing a sequence (only its frames are set), 3D views;
- Slicer's own panels: Data (Edit properties, DICOM export), Sequences, Sample Data with its thumbnails, the Extensions
  Manager, the status bar;
- PythonQt itself: its crashes, threads, what QShortcut returns; ctk's exact sizes, Slicer's style sheets;
- installing PyTorch, translations as Slicer's tools extract them (their contexts are shown), saving a sequence with its
  attributes;
- times: an event loop with nothing else to do is not Slicer's.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import vtk
from PySide6 import QtCore, QtWidgets

import ctk
import qt
import slicer

# Pixels of the module panel when Slicer starts, seen in 5.13.
PANEL_SIZE = (413, 700)


@qt.pythonqt_class
class qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)
    isEntered = True

    def setMRMLScene(self, scene) -> None:
        self.mrmlSceneChanged.emit(scene)


@qt.pythonqt_class
class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """Lists the nodes of the types in `nodeTypes`; without `noneEnabled` the first one is chosen by itself.

    Those of derived classes as well, unless `showChildNodeTypes` or `hideChildNodeTypes` says otherwise. Like the real
    one it goes on to the next node when the chosen one is about to be removed.
    """

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._types: list[str] = []
        self._scene = None
        self._tags: list = []
        self._nodes: list = []
        self._updating = False
        self.currentIndexChanged.connect(self._on_index)

    def _read_types(self) -> list:
        return self._types

    def _write_types(self, types) -> None:
        if self._types != list(types):
            self._types = list(types)
            self._refresh()

    nodeTypes = QtCore.Property("QStringList", _read_types, _write_types)

    def setMRMLScene(self, scene) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        self._tags = []
        if scene:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
                self._tags.append(scene.AddObserver(event, self._on_node))
            self._tags.append(scene.AddObserver(scene.EndCloseEvent, lambda *_: self._refresh()))
            self._tags.append(scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._on_about_to_be_removed))
        self._refresh()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node(self, scene, event, node) -> None:
        # Of a scene that closes, what is left is listed at the end.
        if self._lists(node) and not scene.IsClosing():
            self._refresh()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_about_to_be_removed(self, scene, event, node) -> None:
        if not scene.IsClosing() and node in self._nodes:
            index = self._nodes.index(node)
            del self._nodes[index]
            # Which chooses the next item, or the one before the last.
            self.removeItem(index)

    def _lists(self, node) -> bool:
        if node.GetClassName() in self._types:
            return True
        if self.property("showChildNodeTypes") is False or not any(node.IsA(one) for one in self._types):
            return False
        return not any(node.IsA(one) for one in self.property("hideChildNodeTypes") or ())

    def currentNode(self):
        index = self.currentIndex
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    @property
    def currentNodeID(self) -> str:
        return self.currentNode().GetID() if self.currentNode() else ""

    def setCurrentNode(self, node) -> None:
        if node in self._nodes:
            self.setCurrentIndex(self._nodes.index(node))

    def _refresh(self) -> None:
        old = self.currentNode()
        none_enabled = bool(self.property("noneEnabled"))
        nodes = [None] if none_enabled else []
        for n in range(self._scene.GetNumberOfNodes() if self._scene else 0):
            node = self._scene.GetNthNode(n)
            if self._lists(node) and not node.GetHideFromEditors():
                nodes.append(node)
        self._updating = True
        self.clear()
        self._nodes = nodes
        for node in nodes:
            self.addItem(node.GetName() if node else self.property("noneDisplay") or "None")
        self.setCurrentIndex(nodes.index(old) if old in nodes else (0 if nodes else -1))
        self._updating = False
        if self.currentNode() is not old:
            self.currentNodeChanged.emit(self.currentNode())

    def _on_index(self) -> None:
        if not self._updating:
            self.currentNodeChanged.emit(self.currentNode())


class LayoutManager:
    """Counts what a real one would show."""

    def __init__(self) -> None:
        self.resets = 0

    def resetSliceViews(self) -> None:
        self.resets += 1


class Application:
    """slicer.app in testing mode: no message box opens, errors are logged."""

    applicationName = "Slicer"

    def __init__(self) -> None:
        self.connected: list[tuple[str, object]] = []
        self._layout_manager = LayoutManager()

    def connect(self, signal: str, function) -> bool:
        self.connected.append((signal, function))
        return True

    def testingEnabled(self) -> bool:
        return True

    def topLevelWidgets(self) -> list:
        """No main window."""
        return []

    def processEvents(self, flags=QtCore.QEventLoop.ProcessEventsFlag.AllEvents) -> None:
        QtWidgets.QApplication.processEvents(flags)

    def setOverrideCursor(self, *_unused) -> None:
        """The pointer does not matter here."""

    def restoreOverrideCursor(self) -> None:
        """The pointer does not matter here."""

    def layoutManager(self) -> LayoutManager:
        return self._layout_manager


def start() -> None:
    qt.UiLoader.custom.update({"qMRMLWidget": qMRMLWidget, "qMRMLNodeComboBox": qMRMLNodeComboBox})
    slicer.app = Application()
    slicer.modules = SimpleNamespace()
    slicer.qMRMLWidget = qMRMLWidget
    slicer.qMRMLNodeComboBox = qMRMLNodeComboBox
    assert ctk.ctkCollapsibleButton and vtk.vtkObject


def add_module(module_class, path: str):
    """Load a scripted module's first class as Slicer's module factory does. Returns its parent object."""
    parent = SimpleNamespace(path=path, title="", categories=[], dependencies=[], contributors=[], helpText="")
    module_class(parent)
    setattr(slicer.modules, module_class.__name__.lower(), parent)
    return parent


def open_panel(widget_class):
    """The panel as Slicer builds it: constructor, setup, enter; slicer.util.reloadScriptedModule builds it anew.

    It lies in a scroll area as high and wide as the module panel of a window of 1280 x 960 (`area` of its parent).
    """
    parent = qMRMLWidget()
    parent.setLayout(QtWidgets.QVBoxLayout())
    name = widget_class.__name__.removesuffix("Widget")
    getattr(slicer.modules, name.lower()).widgetRepresentation = lambda: parent

    def build(cls):
        widget = cls(parent)
        setattr(slicer.modules, cls.__name__, widget)
        widget.setup()
        return widget

    parent.reload = lambda: build(getattr(sys.modules[name], widget_class.__name__))
    widget = build(widget_class)
    widget.enter()
    # The module panel scrolls, and follows the focus.
    parent.area = QtWidgets.QScrollArea()
    parent.area.setWidgetResizable(True)
    parent.area.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    parent.area.setWidget(parent)
    parent.area.resize(PANEL_SIZE[0], PANEL_SIZE[1])
    parent.area.show()
    parent.area.activateWindow()
    return widget
