"""Stands in for Slicer's `qt` module: PySide6 with the manners of PythonQt that tests must not hide.

Properties are plain attributes; a slot gets as many arguments as it takes; an exception in a slot is printed and
kept in `slot_errors` (a test must end with none); isinstance knows an object's own class only. What it cannot show
stands in slicer_application.py.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import sys
import traceback
import types
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from typing import ClassVar

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

if sys.version_info < (3, 12):
    # PySide 6.12 loses a reference to None, True or False with each absent property and each signal. These objects
    # cannot be freed from Python 3.12 on; before, they are given references to lose.
    for constant in (None, True, False):
        ctypes.c_ssize_t.from_address(id(constant)).value += 1_000_000_000
slot_errors: list[str] = []
# Properties that are virtual functions, too: in a Python subclass an attribute of that name would stand for these.
_VIRTUAL = ("sizeHint", "minimumSizeHint")
_connections: dict[tuple, object] = {}
_arguments: dict[tuple[type, str], int] = {}
_prepared: set[type] = set()


def _positional(function) -> int | None:
    """How many positional parameters it has; None is any number."""
    plain, bound = getattr(function, "__func__", function), isinstance(function, types.MethodType)
    if isinstance(plain, types.FunctionType) and not hasattr(plain, "__wrapped__"):
        # Most are of this kind, and a panel has hundreds.
        code = plain.__code__
        return None if code.co_flags & inspect.CO_VARARGS else code.co_argcount - bound
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return 0
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _trimmed(function, sent: int):
    """A slot for a signal of `sent` arguments that passes on as many as `function` has positional parameters."""
    count = _positional(function)

    def slot(*arguments):
        try:
            function(*arguments[:count])
        except Exception:
            slot_errors.append(traceback.format_exc())
            traceback.print_exc()

    # PySide looks at a slot's parameters to choose between clicked() and clicked(bool).
    return (lambda: slot(), lambda a: slot(a), lambda a, b: slot(a, b), lambda a, b, c: slot(a, b, c))[sent]


def _arguments_of(owner, name: str) -> int:
    """The largest number of arguments that the signals of this name send."""
    if (type(owner), name) not in _arguments:
        meta = QtCore.QObject.metaObject(owner)
        methods = [meta.method(n) for n in range(meta.methodCount())]
        counts = (m.parameterCount() for m in methods if bytes(m.name().data()).decode() == name)
        _arguments[type(owner), name] = max(counts)
    return _arguments[type(owner), name]


class BoundSignal:
    """A signal of one object, as PythonQt gives it."""

    def __init__(self, owner, instance, name: str) -> None:
        self._owner, self._instance, self._name = owner, instance, name

    def connect(self, function) -> bool:
        slot = _trimmed(function, _arguments_of(self._owner, self._name))
        _connections[(id(self._owner), self._name, function)] = slot
        self._instance.connect(slot)
        return True

    def disconnect(self, function) -> bool:
        self._instance.disconnect(_connections.pop((id(self._owner), self._name, function)))
        return True

    def emit(self, *arguments) -> None:
        self._instance.emit(*arguments)


def pythonqt_class(cls: type) -> type:
    """Give a class and its bases the properties and signals of PythonQt; must come before the first instance."""
    for base in cls.__mro__:
        if base in _prepared or not issubclass(base, QtCore.QObject):
            continue
        _prepared.add(base)
        meta = base.staticMetaObject
        for n in range(meta.propertyOffset(), meta.propertyCount()):
            name = meta.property(n).name()
            if name not in _VIRTUAL and not isinstance(vars(base).get(name), QtCore.Property):
                setattr(base, name, _property(name))
        for name, value in list(vars(base).items()):
            # Not isinstance: with Signal it loses references to True and False (PySide 6.12).
            if type(value) is QtCore.Signal:
                setattr(base, name, _signal(value, name))
    return cls


def _property(name: str) -> property:
    def write(self, value) -> None:
        QtCore.QObject.setProperty(self, name, value)

    return property(lambda self: QtCore.QObject.property(self, name), write)


def _signal(signal, name: str) -> property:
    kept = f"_harness_signal_{name}"

    def read(self) -> BoundSignal:
        return BoundSignal(self, vars(self).get(kept) or signal.__get__(self, type(self)), name)

    # PySide puts the bound signals of a new object into its attributes.
    return property(read, lambda self, value: vars(self).__setitem__(kept, value))


class FlatClass:
    """A Qt class whose isinstance is true for direct instances only, as in PythonQt; it can be subclassed."""

    def __init__(self, cls: type) -> None:
        self._cls = cls

    def __call__(self, *arguments):
        return self._cls(*(a._cls if isinstance(a, FlatClass) else a for a in arguments))

    def __getattr__(self, name: str):
        return getattr(self._cls, name)

    def __instancecheck__(self, instance) -> bool:
        return type(instance) is self._cls

    def __mro_entries__(self, bases) -> tuple:
        return (self._cls,)

    def __eq__(self, other) -> bool:
        return other is self or other is self._cls

    def __hash__(self) -> int:
        return hash(self._cls)


def find_children(widget, cls) -> list:
    """QObject.findChildren for real or flat classes, subclasses included, as in PythonQt."""
    return QtCore.QObject.findChildren(widget, cls._cls if isinstance(cls, FlatClass) else cls)


def stray_attributes(root) -> list[str]:
    """Python attributes set on plain Qt objects below `root`: in PythonQt each is an AttributeError."""
    found = []
    for child in [root, *QtCore.QObject.findChildren(root, QtCore.QObject)]:
        if type(child).__module__.startswith("PySide6"):
            own = [name for name in vars(child) if not name.startswith("_harness")]
            found += [f"{type(child).__name__} {child.objectName}.{name}" for name in own]
    return found


class ByteArray:
    """The bytes of a QByteArray, by data() alone: bytes() of it fails in PythonQt, and str() gives its repr."""

    def __init__(self, content: QtCore.QByteArray) -> None:
        self._content = content

    def data(self) -> bytes:
        return self._content.data()


class Process(QtCore.QProcess):
    """QProcess; a real process with real pipes."""

    def readAllStandardOutput(self) -> ByteArray:
        return ByteArray(super().readAllStandardOutput())

    def readAllStandardError(self) -> ByteArray:
        return ByteArray(super().readAllStandardError())


# Kept, because the property singleShot will take its place.
_single_shot = QtCore.QTimer.singleShot


class Timer(QtCore.QTimer):
    """QTimer; its static singleShot goes before the property of that name, as in PythonQt."""

    @staticmethod
    def singleShot(milliseconds: int, function) -> None:
        _single_shot(milliseconds, _trimmed(function, 0))


class FileDialog:
    """QFileDialog's static functions, which return the file alone in PythonQt; `answers` are given in turn."""

    answers: ClassVar[list[str]] = []

    @classmethod
    def getOpenFileName(cls, parent, title: str, folder: str = "", filters: str = "") -> str:
        return cls.answers.pop(0)

    @classmethod
    def getSaveFileName(cls, parent, title: str, path: str = "", filters: str = "") -> str:
        return cls.answers.pop(0)


class Settings:
    """QSettings of the application, in memory; as from disk, values are texts."""

    values: ClassVar[dict[str, str]] = {}

    def value(self, key: str, default=None):
        return self.values.get(key, default)

    def setValue(self, key: str, value) -> None:
        self.values[key] = str(value)


class InputDialog:
    """QInputDialog's static functions; `answers` are given in turn, "" where the user cancels.

    Qt then returns the choice that was there at first, and PythonQt does not tell that it was cancelled.
    """

    answers: ClassVar[list[str]] = []

    @classmethod
    def getText(cls, parent, title: str, label: str, *_unused) -> str:
        return cls.answers.pop(0)

    @classmethod
    def getItem(cls, parent, title: str, label: str, items: list, current: int = 0, editable: bool = True) -> str:
        answer = cls.answers.pop(0)
        assert answer in ("", *items), items
        return answer or items[current]


@lru_cache
def _read(text: str) -> tuple[set[str], bytes, list[list]]:
    """Of a .ui file: the classes of its widgets and layouts, what is left without its connections, and these."""
    tree = ElementTree.fromstring(text)
    ends = ("sender", "signal", "receiver", "slot")
    connections = [[connection.findtext(end) for end in ends] for connection in tree.iter("connection")]
    for parent in tree.iter():
        for child in parent.findall("connections"):
            parent.remove(child)
    names = {element.get("class", "") for element in tree.iter() if element.tag in ("widget", "layout")}
    return names, ElementTree.tostring(tree), connections


class UiLoader:
    """QUiLoader that knows the custom widgets and makes the connections of a .ui file between them."""

    custom: ClassVar[dict[str, type]] = {}
    _known: ClassVar[int] = -1

    def load(self, file):
        names, content, connections = _read(bytes(file.readAll().data()).decode())
        for name in names:
            if name not in self.custom:
                pythonqt_class(getattr(QtWidgets, name))
        loader = self._loader()
        buffer = QtCore.QBuffer()
        buffer.setData(content)
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = loader.load(buffer)
        for sender, signal, receiver, slot in connections:
            source, target = (self._find(widget, name) for name in (sender, receiver))
            getattr(source, signal.split("(")[0]).connect(getattr(target, slot.split("(")[0]))
        return widget

    @classmethod
    def _loader(cls) -> QtUiTools.QUiLoader:
        """One for all panels, which knows every custom widget."""
        if len(cls.custom) != cls._known:
            cls._one, cls._known = QtUiTools.QUiLoader(), len(cls.custom)
            for custom in cls.custom.values():
                cls._one.registerCustomWidget(custom)
        return cls._one

    @staticmethod
    def _find(root, name: str):
        found = root if root.objectName == name else QtCore.QObject.findChild(root, QtCore.QObject, name)
        if found is None:
            raise RuntimeError(f"The .ui file connects '{name}', which it does not have.")
        return found


def __getattr__(name: str):
    """Classes and namespaces of Qt, prepared when they are first asked for."""
    for module in (QtWidgets, QtCore, QtGui):
        value = getattr(module, name, None)
        if value is None:
            continue
        if isinstance(value, type) and issubclass(value, QtCore.QObject):
            value = FlatClass(pythonqt_class(value))
        globals()[name] = value
        return value
    raise AttributeError(f"module 'qt' has no attribute '{name}'")


pythonqt_class(QtWidgets.QWidget)
QtCore.QObject.name = property(lambda self: self.objectName, lambda self, value: self.setObjectName(value))
QUiLoader = UiLoader
QProcess = FlatClass(pythonqt_class(Process))
QTimer = FlatClass(pythonqt_class(Timer))
QFileDialog = FileDialog
QInputDialog = InputDialog
QSettings = Settings
application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["harness"])
