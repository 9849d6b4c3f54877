"""The list of networks in the panel: the shipped ones, the user's own files, and none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import ModelError
from ..networks.model import read_card
from ..networks.shelf import find_model, model_names
from .messages import tell
from .plain import plain
from .remembered import recalled, remember

_ENDINGS = (".pt", ".pt2")


class ModelList:
    """Fills a combo box; the names (or files) are its items' data. on_chosen(name) is called when the user chose."""

    def __init__(self, combo_box, add_button, on_chosen: Callable[[str], None]) -> None:
        self._box, self._on_chosen = combo_box, on_chosen
        self._updating = False
        self._descriptions: dict[str, str] = {}
        for name in ("auto", *model_names(), "none", *filter(_is_file, recalled("models", list))):
            self._add(name)
        combo_box.currentIndexChanged.connect(self._on_index)
        add_button.clicked.connect(self._on_add)

    def choose(self, name: str) -> None:
        """Show a model as chosen; one that is not in the list is added."""
        self._updating = True
        if self._box.findData(name) < 0:
            self._add(name)
        self._box.setCurrentIndex(self._box.findData(name))
        self._box.toolTip = plain(self._descriptions[name])
        self._updating = False

    def obstacle(self, name: str) -> str:
        """Why a model cannot be used, or nothing."""
        if name in ("auto", "none") or name in model_names() or Path(name).is_file():
            return ""
        return _("The model file {file} does not exist; choose another model").format(file=name)

    def _add(self, name: str) -> None:
        description = self._describe(name)
        self._descriptions[name] = description
        self._box.addItem(Path(name).stem if name.endswith(_ENDINGS) else name, name)
        self._box.setItemData(self._box.count - 1, plain(description), qt.Qt.ToolTipRole)

    def _describe(self, name: str) -> str:
        if name == "none":
            return _("No network: the refinement alone finds the deformation.")
        if name == "auto":
            return _(
                "No network where a refinement follows (slices are refined from several starts, networks among them); "
                "without one, the shipped model that suits best."
            )
        try:
            card = read_card(find_model(name))
        except ModelError as error:
            return str(error)
        text = f"{card.name}: {card.description}" if card.description else card.name
        lines = [text, card.limits, name if name.endswith(_ENDINGS) else ""]
        return "\n".join(line for line in lines if line)

    def _on_index(self, *_unused) -> None:
        if not self._updating:
            self._on_chosen(self._box.itemData(self._box.currentIndex))

    def _on_add(self, *_unused) -> None:
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Add a model file"), "", _("Model files") + " (*.pt *.pt2)"
        )
        if not path:
            return
        try:
            read_card(path)
        except ModelError as error:
            tell(error)
            return
        remember("models", list(dict.fromkeys([*recalled("models", list), path])))
        self._on_chosen(path)


def _is_file(name) -> bool:
    return isinstance(name, str) and Path(name).is_file()
