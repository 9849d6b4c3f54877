"""Random actions in the panel: what a user may do in any order, and what must hold after each.

    python Testing/Benchmarks/panel_monkey.py [--actions 1000] [--seed 0] [--real]

Drives the real panel through the stand-ins of Testing/Harness with a worker of known results, or with the real one
(--real). After each action: no exception, no text or view of another result, no observer or check node left over.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("VoxelMorphRegistration", "Testing/Harness", "Testing/Python")]

import mrml_cases  # noqa: E402
import panel_cases  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
import worker_cases  # noqa: E402
from VoxelMorphRegistrationLib.errors import VoxelMorphError  # noqa: E402
from VoxelMorphRegistrationLib.mrml.names import REPORT_ATTRIBUTE, RUN_ATTRIBUTE  # noqa: E402
from VoxelMorphRegistrationLib.mrml.view_state import CHECK_ATTRIBUTE, composite_nodes  # noqa: E402
from VoxelMorphRegistrationLib.panel.frames import FRAMES  # noqa: E402
from VoxelMorphRegistrationLib.panel.further import NODES as FURTHER  # noqa: E402

# Left to other tests: they ask for files, or copy to the clipboard.
LEFT_OUT = ("addModelButton", "copyLogButton", "savePresetButton", "removePresetButton", "saveReportButton")
VOLUMES = "vtkMRMLScalarVolumeNode"


class Monkey:
    """Does random things with a panel and looks at it after each."""

    def __init__(self, widget, seed: int, folder: Path, client=None) -> None:
        self.widget, self.rng, self.folder, self.client = widget, random.Random(seed), folder, client
        self.done: list[str] = []
        self.saved: list[Path] = []
        self.actions = {
            self.click: 30,
            self.choose: 12,
            self.slide: 6,
            self.tick_a_node: 5,
            self.press_register: 14,
            self.cancel: 5,
            self.wait: 10,
            self.fail_next: 2,
            self.choose_pair: 8,
            self.choose_further: 4,
            self.choose_guides: 3,
            self.add_volumes: 4,
            self.remove_a_node: 6,
            self.rename_a_node: 4,
            self.move_a_volume: 4,
            self.leave_and_enter: 4,
            self.close_the_scene: 2,
            self.save_the_scene: 2,
            self.load_a_scene: 2,
            self.add_a_sequence: 2,
            self.choose_a_sequence: 5,
            self.browse: 6,
            self.pin: 4,
            self.improve: 3,
        }

    @property
    def scene(self):
        return slicer.mrmlScene

    def act(self, count: int) -> None:
        for _ in range(count):
            action = self.rng.choices([*self.actions], [*self.actions.values()])[0]
            self.done.append(action.__name__)
            detail = action()
            if detail:
                self.done[-1] += f" {detail}"
            qt.application.processEvents()
            self.check()
        self.settle()
        self.check(settled=True)

    # --- what can be done --------------------------------------------------------------------------------------

    def click(self) -> str:
        names = [
            name
            for name, one in vars(self.widget.ui).items()
            if type(one).__name__ in ("QPushButton", "QCheckBox") and name not in (*LEFT_OUT, "registerButton")
        ]
        name = self.rng.choice(names)
        qt.InputDialog.answers = [""]
        getattr(self.widget.ui, name).click()
        return name

    def choose(self) -> str:
        boxes = [n for n, one in vars(self.widget.ui).items() if type(one).__name__ == "QComboBox"]
        name = self.rng.choice(boxes)
        box = getattr(self.widget.ui, name)
        if box.count and box.enabled:
            box.setCurrentIndex(self.rng.randrange(box.count))
        return name

    def slide(self) -> str:
        names = [n for n, one in vars(self.widget.ui).items() if type(one).__name__ == "ctkSliderWidget"]
        name = self.rng.choice(names)
        one = getattr(self.widget.ui, name)
        one.value = self.rng.uniform(one.minimum, one.maximum)
        return name

    def tick_a_node(self) -> None:
        boxes = self.widget.ui.applyList
        qt.InputDialog.answers = [""]
        if boxes.count and boxes.enabled:
            item = boxes.item(self.rng.randrange(boxes.count))
            item.setCheckState(self.rng.choice((qt.Qt.Checked, qt.Qt.Unchecked)))

    def press_register(self) -> None:
        self.widget.ui.registerButton.click()

    def cancel(self) -> None:
        if self.widget._register.run is not None:
            self.widget.ui.registerButton.click()

    def wait(self) -> None:
        worker_cases.spin(lambda: self.widget._register.run is None)

    def fail_next(self) -> None:
        if self.client is not None:
            self.client.failing = [VoxelMorphError("It went wrong, as it was told to.")]

    def choose_pair(self) -> None:
        parameters, volumes = self.widget._parameterNode, self.volumes()
        if parameters is not None and self.widget._register.run is None:
            for name in ("fixedVolume", "movingVolume"):
                getattr(self.widget.ui, f"{name}Selector").setCurrentNode(self.rng.choice([None, *volumes, *volumes]))

    def choose_further(self) -> str:
        """A volume of a row of further ones, or none."""
        if self.widget._parameterNode is None or self.widget._register.run is not None:
            return ""
        name = self.rng.choice(FURTHER)
        getattr(self.widget.ui, f"{name}Selector").setCurrentNode(self.rng.choice([None, *self.volumes()]))
        return name

    def choose_guides(self) -> str:
        """Segmentations, by turns made and left, of a volume or of all frames of a sequence."""
        parameters = self.widget._parameterNode
        if parameters is None or self.widget._register.run is not None:
            return ""
        side = self.rng.choice(("fixed", "moving"))
        volume, chosen = getattr(parameters, f"{side}Volume"), None
        if volume is not None and volume.GetImageData() is not None and self.rng.random() < 0.6:
            try:
                chosen = mrml_cases.add_label_map(self.scene, volume)
            except VoxelMorphError:
                # It lies under a deformation.
                return side
            browser = next((one for one in self.browsers() if one.IsProxyNode(volume.GetID())), None)
            if browser is not None and self.rng.random() < 0.7:
                chosen = mrml_cases.add_synchronized(browser, chosen, self.rng.choice(((0, 1, 2), (0, 2))))
        setattr(parameters, f"{side}Labels", chosen)
        return side

    def volumes(self) -> list:
        return [
            node
            for node in slicer.util.getNodesByClass(VOLUMES)
            if not node.GetAttribute(RUN_ATTRIBUTE) and not node.GetHideFromEditors()
        ]

    def add_volumes(self) -> None:
        if len(self.volumes()) < 6:
            mrml_cases.make_nodes(self.scene, self.rng.choice(list(mrml_cases.FIXED_GRIDS)))

    def remove_a_node(self) -> str:
        names = (VOLUMES, "vtkMRMLTransformNode", "vtkMRMLTableNode", "vtkMRMLSegmentationNode")
        nodes = [node for name in names for node in slicer.util.getNodesByClass(name)]
        if not nodes:
            return ""
        node = self.rng.choice(nodes)
        name = node.GetName()
        self.scene.RemoveNode(node)
        return name

    def rename_a_node(self) -> None:
        nodes = slicer.util.getNodesByClass("vtkMRMLTransformableNode")
        if nodes:
            self.rng.choice(nodes).SetName(f"Name {self.rng.randrange(100)}")

    def move_a_volume(self) -> None:
        volumes = self.volumes()
        if volumes:
            parent = self.scene.AddNewNodeByClass("vtkMRMLTransformNode", "Shift")
            parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(mrml_cases.affine(shift=(1.0, 2.0, 0.0))))
            self.rng.choice(volumes).SetAndObserveTransformNodeID(parent.GetID())

    def leave_and_enter(self) -> None:
        self.widget.exit()
        qt.application.processEvents()
        self.widget.enter()

    def close_the_scene(self) -> None:
        self.scene.Clear(0)
        panel_cases.add_slice_views(self.scene)
        panel_cases.add_place_nodes(self.scene)

    def save_the_scene(self) -> None:
        path = self.folder / f"scene{len(self.saved)}.mrml"
        self.scene.SetURL(str(path))
        self.scene.SetRootDirectory(str(self.folder))
        self.scene.Commit(str(path))
        self.saved.append(path)

    def load_a_scene(self) -> None:
        if self.saved:
            self.scene.Clear(0)
            self.scene.SetURL(str(self.rng.choice(self.saved)))
            self.scene.Import()
            panel_cases.add_slice_views(self.scene)

    # --- 4D, and pins --------------------------------------------------------------------------------------------

    def add_a_sequence(self) -> None:
        if len(slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")) < 2:
            grid = self.rng.choice([*mrml_cases.FIXED_GRIDS.values()])
            shifts = [(self.rng.uniform(-3, 3), 0.0, 0.0) for _ in range(3)]
            mrml_cases.add_sequence(self.scene, grid, shifts, f"Series {self.rng.randrange(100)}")

    def choose_a_sequence(self) -> str:
        """As the moving volume, with one of the choices of the row 'Frames'."""
        parameters, browsers = self.widget._parameterNode, self.browsers()
        if not browsers or parameters is None or self.widget._register.run is not None:
            return ""
        browser = self.rng.choice(browsers)
        proxy = browser.GetProxyNode(browser.GetMasterSequenceNode())
        if proxy is not None:
            self.widget.ui.movingVolumeSelector.setCurrentNode(proxy)
        parameters.frames = self.rng.choice([*FRAMES])
        return parameters.frames

    def browsers(self) -> list:
        nodes = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
        return [node for node in nodes if node.GetMasterSequenceNode() is not None]

    def browse(self) -> None:
        if self.browsers():
            browser = self.rng.choice(self.browsers())
            browser.SetSelectedItemNumber(self.rng.randrange(max(browser.GetNumberOfItems(), 1)))

    def pin(self) -> str:
        """Both clicks, or the first of them."""
        ui, parameters = self.widget.ui, self.widget._parameterNode
        if not ui.pinButton.enabled or parameters is None:
            return ""
        if not ui.pinButton.checked:
            ui.pinButton.click()
        if ui.pinButton.checked and parameters.fixedPoints is not None:
            parameters.fixedPoints.AddControlPointWorld(*(self.rng.uniform(-5, 5) for _ in range(3)))
            qt.application.processEvents()
        if self.rng.random() < 0.8 and ui.pinButton.checked and parameters.movingPoints is not None:
            parameters.movingPoints.AddControlPointWorld(*(self.rng.uniform(-5, 5) for _ in range(3)))
            return "both"
        return "half"

    def improve(self) -> None:
        if self.widget.ui.improveButton.enabled:
            self.widget.ui.improveButton.click()

    # --- what must hold ------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let everything come to its end that was begun."""
        widget = self.widget
        worker_cases.spin(lambda: widget._register.run is None)
        ui = widget.ui
        worker_cases.spin(lambda: ui.applyList.enabled or not ui.applyCollapsibleButton.enabled)
        worker_cases.spin(lambda: not widget._nodesTimer.active and not widget._frames._timer.active)

    def check(self, settled: bool = False) -> None:
        story = " > ".join(self.done[-12:])
        assert qt.slot_errors == [], f"{story}\n{qt.slot_errors[0]}"
        ui, parameters = self.widget.ui, self.widget._parameterNode
        running = self.widget._register.run is not None
        assert ui.registerButton.text in (("Cancel", "Cancelling") if running else ("Register",)), story
        transform = parameters.outputTransform
        kept = parameters.keptTransform
        with_report = [one for one in (transform, kept) if one is not None and one.GetAttribute(REPORT_ATTRIBUTE)]
        if not with_report:
            assert ui.verdictLabel.text == "" and ui.resultsTable.rowCount == 0, f"a stale result: {story}"
            # Of a run that ended early, the frame shown may be one without a result.
            of_frames = transform is not None and any(one.IsProxyNode(transform.GetID()) for one in self.browsers())
            assert running or of_frames or ui.progressBar.value < 100, f"a stale progress: {story}"
        nodes = [self.scene.GetNthNode(n) for n in range(self.scene.GetNumberOfNodes())]
        if not running:
            hidden = [
                node.GetName()
                for node in nodes
                if node.GetHideFromEditors()
                and node.GetClassName() in (VOLUMES, "vtkMRMLTransformNode")
                and not node.GetAttribute(CHECK_ATTRIBUTE)
            ]
            assert hidden == [], f"nodes of a run are left: {hidden}: {story}"
        interaction = self.scene.GetFirstNodeByClass("vtkMRMLInteractionNode")
        if interaction is not None and not ui.pinButton.checked:
            assert interaction.GetCurrentInteractionMode() != interaction.Place, f"clicks still place pins: {story}"
        if not running and self.widget._check._before is None:
            left = [
                node.GetName()
                for node in nodes
                if node.GetAttribute(CHECK_ATTRIBUTE) and not node.IsA("vtkMRMLDisplayNode")
            ]
            assert left == [], f"check nodes are left: {left}: {story}"
        if settled or len(self.done) % 50 == 0:
            self.check_wrappers(story)
        if settled:
            for view in composite_nodes(self.scene):
                for shown in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()):
                    assert shown is None or self.scene.GetNodeByID(shown) is not None, f"a view of nothing: {story}"

    def check_wrappers(self, story: str) -> None:
        """One wrapper follows the parameter node, and writes into one set of widgets."""
        parameters = self.widget._parameterNode
        kind, calls = type(parameters), []
        read, write = kind._read_all, kind._to_gui
        kind._read_all = lambda one: (calls.append("read"), read(one))
        kind._to_gui = lambda one, tag: (calls.append("write"), write(one, tag))
        try:
            parameters.parameterNode.Modified()
        finally:
            kind._read_all, kind._to_gui = read, write
        assert sorted(calls) == ["read", "write"], f"wrappers are left: {calls}: {story}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="with the real worker instead of known results")
    options = parser.parse_args()
    import slicer_application
    from standin_client import StandInClient
    from VoxelMorphRegistrationLib.panel import run

    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    segmentations, sequences = slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkSlicerSequencesLogic()
    for logic in (segmentations, sequences):
        logic.SetMRMLScene(scene)
    slicer_application.start()
    colors = panel_cases.add_color_legends(scene)
    client = None if options.real else StandInClient()
    if client is not None:
        run._shared[:] = [client]
    import VoxelMorphRegistration as module

    slicer_application.add_module(module.VoxelMorphRegistration, module.__file__)
    panel_cases.add_slice_views(scene)
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)
    panel_cases.add_place_nodes(scene)
    mrml_cases.make_nodes(scene)
    widget = slicer_application.open_panel(module.VoxelMorphRegistrationWidget)
    with tempfile.TemporaryDirectory() as folder:
        monkey = Monkey(widget, options.seed, Path(folder), client)
        monkey.act(options.actions)
    widget.cleanup()
    widget.logic.worker().shutdown()
    colors.SetMRMLScene(None)
    print(f"{options.actions} actions of seed {options.seed}: nothing stale, nothing left, no exception")


if __name__ == "__main__":
    main()
