"""The section 'Check': what the slice views show, so that a wrong result is seen. The views are put back by a click."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..mrml import check_views, deformation_views, display, jacobian_views
from ..mrml.frames import results_sequence
from ..mrml.names import RUN_ATTRIBUTE
from ..mrml.results import moved_since
from ..mrml.view_state import ViewState, composite_nodes
from ..results.verdict import LOOK
from .choices import keep_as_a, told_of
from .colours import box
from .doubt import DoubtControls
from .messages import told
from .shown import Shown, shown_result

_FLICKER_MS = 600
# What a refinement compares where one image rises with the other.
_ONE_CONTRAST = ("lncc", "mse")
_DEFORMATIONS = (None, deformation_views.GRID, deformation_views.ARROWS)


class CheckSection:
    """Drives the widgets of the section. `parameters` (the module's parameter node) names the nodes of the result."""

    def __init__(self, ui) -> None:
        self._ui = ui
        self._parameters: Any = None
        self._before: ViewState | None = None
        self._mode = ""
        # What is shown, told by its nodes and report: another one puts the views back.
        self._subject: tuple = ()
        # The run whose result is shown: each frame of a sequence has its own.
        self._run: str | None = None
        # Whether the views show a running registration; its result takes over from there.
        self._previewing = False
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._on_flick)
        self._watched: list[tuple] = []
        self._moved_timer = qt.QTimer()
        self._moved_timer.setSingleShot(True)
        self._moved_timer.timeout.connect(self._tell_moved)
        for text in (_("off"), _("grid"), _("arrows")):
            ui.deformationComboBox.addItem(text)
        self._modes = {
            "fade": ui.showFadeButton,
            "checkerboard": ui.showCheckerboardButton,
            "before": ui.showBeforeButton,
            "jacobian": ui.showJacobianButton,
            DoubtControls.MODE: ui.showErrorButton,
            "compare": ui.compareButton,
        }
        ui.showFadeButton.clicked.connect(lambda *_: self.show("fade"))
        ui.showCheckerboardButton.clicked.connect(lambda *_: self.show("checkerboard"))
        ui.showBeforeButton.clicked.connect(lambda *_: self.show("before"))
        ui.showJacobianButton.clicked.connect(lambda *_: self.show("jacobian"))
        self._doubt = DoubtControls(ui, self._nodes, self.show, self._jump, told)
        ui.compareButton.clicked.connect(lambda *_: self.show("compare"))
        ui.keepButton.clicked.connect(self._on_keep)
        ui.fadeSlider.valueChanged.connect(self._on_fade)
        ui.flickerButton.clicked.connect(self._on_flicker)
        ui.jacobianRangeSlider.valueChanged.connect(self._on_range)
        ui.legendCheckBox.clicked.connect(self._on_legend)
        ui.deformationComboBox.currentIndexChanged.connect(self._on_deformation)
        ui.gridSpacingSpinBox.valueChanged.connect(self._on_spacing)
        self._outlines = {
            "fixed": ui.outlineFixedCheckBox,
            "moving": ui.outlineMovingCheckBox,
            "warped": ui.outlineWarpedCheckBox,
        }
        for side, one in self._outlines.items():
            one.setIcon(_swatch(check_views.OUTLINE_COLORS[side]))
            one.clicked.connect(self._on_outlines)
        ui.worstDeterminantButton.clicked.connect(lambda *_: self._jump("determinant"))
        ui.worstLandmarkButton.clicked.connect(lambda *_: self._jump("landmark"))
        ui.linkCheckBox.clicked.connect(self._on_link)
        ui.restoreViewsButton.clicked.connect(self._on_restore)

    def cleanup(self) -> None:
        self._timer.stop()
        self._moved_timer.stop()
        self.set_parameters(None)
        self._watch([])

    def set_parameters(self, parameters) -> None:
        self._parameters = parameters
        self.update()

    def forget(self) -> None:
        """The scene is being closed: there is nothing to put back."""
        self._before, self._subject, self._previewing = None, (), False
        self._reset()

    def update(self) -> None:
        """Enable what can be shown of the present result; put the views back when it is another one."""
        nodes = self._nodes()
        result = nodes.transform is not None and nodes.fixed is not None
        if self._parameters is not None:
            subject = self._subject_of(nodes)
            if subject != self._subject:
                self._subject = subject
                if not self._previewing:
                    self._put_back()
        self._follow_frame(nodes)
        self._watch([node for node in (nodes.fixed, nodes.moving) if node is not None])
        self._tell_moved()
        self._ui.checkCollapsibleButton.enabled = result or self._before is not None
        self._ui.restoreViewsButton.enabled = self._before is not None
        if not result:
            self._stop_flicker()
        worst = nodes.report.get("worst_ras") or {}
        warped = result and nodes.warped is not None
        possible = {
            "fade": warped,
            "checkerboard": warped,
            "before": warped and nodes.moving is not None,
            "jacobian": result and nodes.jacobian is not None,
            DoubtControls.MODE: self._doubt.possible(result, nodes),
            "compare": warped and nodes.kept_warped is not None,
        }
        self._doubt.update(result, nodes)
        for mode, button in self._modes.items():
            button.enabled = possible[mode] or button.checked
        self._ui.keepButton.enabled = result and nodes.kept is not nodes.transform
        for widget in (self._ui.fadeSlider, self._ui.flickerButton, self._ui.deformationComboBox):
            widget.enabled = result
        for side, one in self._outlines.items():
            one.enabled = nodes.labels.get(side) is not None
        self._ui.worstDeterminantButton.enabled = result and ("determinant" in worst or nodes.jacobian is not None)
        self._ui.worstLandmarkButton.enabled = "landmark" in worst
        if nodes.transform is not None:
            self._choose_deformation(_DEFORMATIONS.index(deformation_views.shown_deformation(nodes.transform)))
        views = composite_nodes(slicer.mrmlScene)
        self._ui.linkCheckBox.checked = bool(views) and bool(views[0].GetLinkedControl())

    def _follow_frame(self, nodes: Shown) -> None:
        """What the checks made for one frame of a sequence of results is made anew for the one that is shown now."""
        run = nodes.transform.GetAttribute(RUN_ATTRIBUTE) if nodes.transform is not None else None
        if run is None or run == self._run:
            return
        former, self._run = self._run, run
        if not former or results_sequence(nodes.transform) is None:
            return
        with told():
            if self._mode in ("checkerboard", "before", "jacobian"):
                self._fill(self._mode, nodes, self._ui.fadeSlider.value)
            if deformation_views.is_of_another_run(nodes.transform):
                self._on_deformation()

    def _watch(self, volumes: list) -> None:
        """Follow where the registered volumes lie."""
        if [node for node, _ in self._watched] == volumes:
            return
        for node, tag in self._watched:
            node.RemoveObserver(tag)
        event = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
        self._watched = [(node, node.AddObserver(event, lambda *_: self._moved_timer.start(100))) for node in volumes]

    def _tell_moved(self, *_unused) -> None:
        names = {"fixed": _("fixed"), "moving": _("moving")}
        moved = [names[side] for side in moved_since(self._nodes().transform)]
        label = self._ui.movedLabel
        label.text = (
            _("Moved since the registration: {sides} volume. The numbers are those of where it lay.").format(
                sides=" and ".join(moved)
            )
            if moved
            else ""
        )
        label.styleSheet = box(label, LOOK)
        label.setVisible(bool(moved))

    def _subject_of(self, nodes) -> tuple:
        chosen = self._parameters.outputTransform
        if results_sequence(chosen) is not None:
            # Other frames of one result keep what the views show, those without a result, too.
            return chosen.GetID(), told_of(chosen)
        shown = (nodes.transform, nodes.fixed, nodes.warped, nodes.jacobian, nodes.expected_error)
        return (*(None if node is None else node.GetID() for node in shown), nodes.report)

    def _put_back(self) -> None:
        """The views as before the first check."""
        self._timer.stop()
        if self._before is not None:
            with told():
                self._before.restore()
        self._before = None
        self._reset()

    def show_result(self) -> None:
        """After a registration: the warped volume over the fixed one; the section unfolds."""
        self.update()
        nodes = self._nodes()
        if nodes.warped is not None:
            if (nodes.report.get("refinement") or {}).get("similarity") in (None, *_ONE_CONTRAST):
                display.show_with_one_window(nodes.warped, nodes.fixed)
            self.show("fade")
        elif self._nodes().jacobian is not None:
            self.show("jacobian")
        else:
            self._put_back()
        self._previewing = False
        check_views.remove_preview(slicer.mrmlScene)
        self._ui.checkCollapsibleButton.collapsed = False

    def show_preview(self, image, run) -> None:
        """While a registration runs: its result so far over the fixed volume, until end_preview or the result."""
        if run is None:
            return
        self._remember()
        self._stop_flicker()
        self._previewing = True
        with told():
            fixed_node, moving_node = run.pair
            new = check_views.show_preview(fixed_node, moving_node, image.array)
        if new and slicer.app.layoutManager() is not None:
            slicer.util.resetSliceViews()

    def end_preview(self) -> None:
        """The run gave no result: the views are as before it."""
        if self._previewing:
            self._previewing = False
            self._put_back()
            self.update()

    def show(self, mode: str) -> None:
        """Fill the slice views: "fade", "checkerboard", "before", "jacobian", "error" or "compare" (with the kept
        result).
        """
        nodes = self._nodes()
        self._remember()
        self._stop_flicker()
        opacity = {"fade": 0.5, "jacobian": 0.6, "error": 0.6, "compare": 0.0}.get(mode, 1.0)
        with told(busy=mode == "checkerboard"):
            self._fill(mode, nodes, opacity)
            self._mode = mode
        for name, button in self._modes.items():
            button.checked = name == self._mode
        self._ui.fadeSlider.setValue(opacity)
        self.update()

    def _fill(self, mode: str, nodes, opacity: float) -> None:
        if nodes.jacobian is not None:
            jacobian_views.show_legend(nodes.jacobian, False)
        self._doubt.hide(nodes)
        # Both lie on one grid: views that show either need not be fitted.
        known = {node.GetID() for node in (nodes.fixed, nodes.warped) if node is not None}
        new = any(view.GetBackgroundVolumeID() not in known for view in composite_nodes(slicer.mrmlScene))
        if mode == "fade":
            check_views.show_pair(nodes.fixed, nodes.warped, opacity)
        elif mode == "compare":
            check_views.show_pair(nodes.kept_warped, nodes.warped, opacity)
        elif mode == "checkerboard":
            check_views.show_checkerboard(nodes.fixed, nodes.warped)
        elif mode == "before":
            check_views.show_before_after(nodes.moving, nodes.warped, nodes.transform)
        elif mode == DoubtControls.MODE:
            self._doubt.show(nodes, opacity, self._ui.legendCheckBox.checked)
        else:
            change, legend = self._ui.jacobianRangeSlider.value, self._ui.legendCheckBox.checked
            jacobian_views.show_jacobian(nodes.fixed, nodes.jacobian, opacity, change, legend)
        if new and slicer.app.layoutManager() is not None:
            slicer.util.resetSliceViews()

    # --- nodes ---

    def _nodes(self) -> Shown:
        return shown_result(self._parameters)

    def _remember(self) -> None:
        if self._before is None:
            self._before = ViewState.of(slicer.mrmlScene)

    # --- slots ---

    def _on_fade(self, *_unused) -> None:
        if self._mode and not self._timer.active:
            check_views.fade(slicer.mrmlScene, self._ui.fadeSlider.value)

    def _on_flicker(self, *_unused) -> None:
        if not self._ui.flickerButton.checked:
            self._stop_flicker()
            return
        if not self._mode:
            self.show_result()
            self._ui.flickerButton.checked = True
        self._timer.start(_FLICKER_MS)
        self._on_flick()

    def _on_flick(self, *_unused) -> None:
        check_views.flick(slicer.mrmlScene)

    def _stop_flicker(self) -> None:
        was_active = self._timer.active
        self._timer.stop()
        self._ui.flickerButton.checked = False
        if was_active:
            check_views.fade(slicer.mrmlScene, self._ui.fadeSlider.value)

    def _on_range(self, *_unused) -> None:
        jacobian = self._nodes().jacobian
        if jacobian is not None:
            with told():
                display.set_jacobian_range(jacobian, self._ui.jacobianRangeSlider.value)

    def _on_legend(self, *_unused) -> None:
        self._doubt.show_legend(self._nodes(), self._ui.legendCheckBox.checked)
        jacobian = self._nodes().jacobian
        if self._mode == "jacobian" and jacobian is not None:
            jacobian_views.show_legend(jacobian, self._ui.legendCheckBox.checked)

    def _on_deformation(self, *_unused) -> None:
        nodes = self._nodes()
        if nodes.transform is None or nodes.fixed is None:
            return
        mode = _DEFORMATIONS[self._ui.deformationComboBox.currentIndex]
        self._remember()
        with told():
            spacing = self._ui.gridSpacingSpinBox.value or None
            deformation_views.show_deformation(nodes.transform, nodes.fixed, mode, spacing)

    def _on_spacing(self, *_unused) -> None:
        if self._ui.deformationComboBox.currentIndex > 0:
            self._on_deformation()

    def _on_outlines(self, *_unused) -> None:
        labels = self._nodes().labels
        self._remember()
        chosen = {side: labels[side] for side, one in self._outlines.items() if one.checked and labels.get(side)}
        with told(busy=True):
            check_views.hide_outlines(slicer.mrmlScene)
            check_views.show_outlines(chosen)

    def _jump(self, kind: str) -> None:
        nodes = self._nodes()
        self._remember()
        with told():
            place = (nodes.report.get("worst_ras") or {}).get(kind)
            if place is None:
                place, _value = check_views.worst_voxel(nodes.jacobian)
            check_views.jump_to(slicer.mrmlScene, place)

    def _on_link(self, *_unused) -> None:
        self._remember()
        check_views.link(slicer.mrmlScene, self._ui.linkCheckBox.checked)

    def _on_restore(self, *_unused) -> None:
        self._put_back()
        self.update()

    def _on_keep(self, *_unused) -> None:
        """The present result becomes A; the next run makes nodes of its own, which are B."""
        if self._parameters is not None:
            keep_as_a(self._parameters)

    def _reset(self) -> None:
        """The widgets as before the first check."""
        self._timer.stop()
        self._mode = ""
        for button in (*self._modes.values(), self._ui.flickerButton, *self._outlines.values()):
            button.checked = False
        self._choose_deformation(0)

    def _choose_deformation(self, index: int) -> None:
        """Say what is shown, and show nothing anew."""
        parameters, self._parameters = self._parameters, None
        self._ui.deformationComboBox.setCurrentIndex(index)
        self._parameters = parameters


def _swatch(color: tuple[float, float, float]):
    """An icon of one colour, in [0, 1]."""
    pixmap = qt.QPixmap(10, 10)
    pixmap.fill(qt.QColor(*(round(255 * part) for part in color)))
    return qt.QIcon(pixmap)
