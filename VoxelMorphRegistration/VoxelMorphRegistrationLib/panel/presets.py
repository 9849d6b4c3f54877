"""Settings in words: presets for kinds of tasks, the user's own ones, and the last choices for a new scene.

Own presets, the last choices and added model files are kept in Slicer's application settings, beyond the scene.
"""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .plain import plain
from .remembered import recalled, remember

# The choices that a preset holds: all that decide a result, and none that name a node or this computer.
NAMES = (
    "quality",
    "model",
    "alignment",
    "passes",
    "refinement",
    "similarity",
    "smoothness",
    "labelWeight",
    "landmarkWeight",
    "workingSpacing",
    "labelInterpolation",
    "jacobianKind",
    "expectedError",
    "jacobianGrid",
    "linear",
)
# Kept for the next scene, besides: what is specific to this computer, and which outputs are wanted.
REMEMBERED = (*NAMES, "device", "precision", "wantVolume", "wantJacobian", "wantLabels", "wantInverse")


def built_in() -> dict[str, dict]:
    """The presets that come with the module, by their names: what they change of the defaults."""
    return {
        _("Different people (default)"): {},
        _("Same person, same scanner"): {"alignment": "rigid", "similarity": "lncc"},
        _("Follow-up"): {"alignment": "rigid", "smoothness": 1.5},
        _("Other contrast"): {"alignment": "rigid", "similarity": "mind"},
        _("Atlas to patient"): {"refinement": "accurate", "wantInverse": True},
    }


class Presets:
    """Drives the list and its buttons."""

    def __init__(self, ui) -> None:
        self._ui, self._updating = ui, False
        self._parameters: Any = None
        ui.presetComboBox.currentIndexChanged.connect(self._on_chosen)
        ui.savePresetButton.clicked.connect(self._on_save)
        ui.removePresetButton.clicked.connect(self._on_remove)
        self._fill()

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters

    def update(self) -> None:
        """Name the preset that the choices are, if they are one."""
        if self._parameters is None:
            return
        found = next((n for n, values in self._all().items() if self._is_chosen(values)), "")
        self._select(found)

    def remember(self) -> None:
        """Keep the present choices for the next scene."""
        remember("last", {name: getattr(self._parameters, name) for name in REMEMBERED})

    def recall(self) -> None:
        """The last choices, where the scene has none of its own: all are as they are at first."""
        if all(getattr(self._parameters, name) == self._default_of(name) for name in REMEMBERED):
            self._apply(recalled("last"))

    def _default_of(self, name: str):
        return self._parameters.default(name).value

    def _all(self) -> dict[str, dict]:
        return {**built_in(), **recalled("presets")}

    def _is_chosen(self, values: dict) -> bool:
        names = {*NAMES, *values}
        return all(getattr(self._parameters, n) == values.get(n, self._default_of(n)) for n in names)

    def _apply(self, values: dict) -> None:
        with slicer.util.NodeModify(self._parameters):
            for name, value in values.items():
                if name in REMEMBERED:
                    try:
                        setattr(self._parameters, name, type(self._default_of(name))(value))
                    except (ValueError, TypeError):
                        # A choice of another version; the default stays.
                        continue

    def _fill(self) -> None:
        self._updating = True
        self._ui.presetComboBox.clear()
        for name in ("", *self._all()):
            self._ui.presetComboBox.addItem(name or _("(own settings)"), name)
        self._updating = False

    def _select(self, name: str) -> None:
        self._updating = True
        self._ui.presetComboBox.setCurrentIndex(max(self._ui.presetComboBox.findData(name), 0))
        self._updating = False
        self._ui.removePresetButton.enabled = name in recalled("presets")

    def _on_chosen(self, *_unused) -> None:
        box = self._ui.presetComboBox
        name = box.itemData(box.currentIndex)
        if self._updating or not name or self._parameters is None:
            return
        self._apply({**{one: self._default_of(one) for one in NAMES}, **self._all()[name]})

    def _on_save(self, *_unused) -> None:
        name = qt.QInputDialog.getText(slicer.util.mainWindow(), _("Save these settings"), _("Name of the preset:"))
        # Some wrappings of Qt return the name with whether OK was pressed.
        name = (name if isinstance(name, str) else name[0] if name else "").strip()
        if not name or self._parameters is None:
            return
        if name in built_in():
            slicer.util.errorDisplay(plain(_("'{name}' comes with the module. Choose another name.").format(name=name)))
            return
        remember("presets", {**recalled("presets"), name: {one: getattr(self._parameters, one) for one in NAMES}})
        self._fill()
        self.update()

    def _on_remove(self, *_unused) -> None:
        own = recalled("presets")
        own.pop(self._ui.presetComboBox.itemData(self._ui.presetComboBox.currentIndex), None)
        remember("presets", own)
        self._fill()
        self.update()
