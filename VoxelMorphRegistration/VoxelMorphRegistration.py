"""VoxelMorph registration in 3D Slicer: the module, its parameters, its panel, its logic and its test."""

import time
import unittest
from pathlib import Path
from typing import Annotated, Any, Union

import numpy as np
import vtk
from slicer.util import VTKObservationMixin

import qt
import slicer
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from VoxelMorphRegistrationLib.alignment.align import METHODS as ALIGNMENTS
from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.mrml.sequences import SequenceOutputs
from VoxelMorphRegistrationLib.mrml.targets import Outputs
from VoxelMorphRegistrationLib.mrml.transforms import make_grids_linear
from VoxelMorphRegistrationLib.panel import choices, installing, plain
from VoxelMorphRegistrationLib.panel.apply import ApplySection
from VoxelMorphRegistrationLib.panel.bound import Binding, wrapper_of
from VoxelMorphRegistrationLib.panel.check import CheckSection
from VoxelMorphRegistrationLib.panel.device import DeviceLine, expected_text
from VoxelMorphRegistrationLib.panel.frames import FRAMES, ONE_FRAME, FramesSection, all_frames, sequence_arguments
from VoxelMorphRegistrationLib.panel.further import FurtherSection
from VoxelMorphRegistrationLib.panel.models import ModelList
from VoxelMorphRegistrationLib.panel.pins import PinSection
from VoxelMorphRegistrationLib.panel.presets import Presets
from VoxelMorphRegistrationLib.panel.register import RegisterSection
from VoxelMorphRegistrationLib.panel.results import ResultsSection, write_table
from VoxelMorphRegistrationLib.panel.run import NodeRun, prepared, shared_client
from VoxelMorphRegistrationLib.panel.samples import register_samples
from VoxelMorphRegistrationLib.panel.scripted import callbacks_of, settings_with, summary, waited_for
from VoxelMorphRegistrationLib.panel.sequence_run import sequence_run
from VoxelMorphRegistrationLib.registration.settings import (
    DEVICES,
    PRECISIONS,
    QUALITIES,
    REFINEMENTS,
    SIMILARITIES,
    Settings,
)

# Before the node selectors, which follow the same events.
EARLY = 100.0
# None among them means that the choice can be empty. The parameter node takes this form of a union only.
LabelsNode = Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007


#
# VoxelMorphRegistration
#


class VoxelMorphRegistration(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("VoxelMorph Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = ["Markups", "Segmentations"]
        # Which nodes Edit properties may open here; nodeEditable of the panel tells which ones it wants.
        self.parent.associatedNodeTypes = ["vtkMRMLTransformNode", "vtkMRMLScalarVolumeNode", "vtkMRMLTableNode"]
        self.parent.contributors = ["The SlicerVoxelMorph contributors"]
        self.parent.helpText = _("""
Deforms one volume onto another within seconds, with a neural network in the manner of VoxelMorph.
Results: a transform, the warped volume, warped labels and a map of the volume change.
See the <a href="https://github.com/SlicerVoxelMorph/SlicerVoxelMorph">documentation</a>.
""")
        self.parent.acknowledgementText = _("""
This module follows the method of Balakrishnan, Zhao, Sabuncu, Guttag and Dalca: VoxelMorph, a learning framework
for deformable medical image registration, IEEE Transactions on Medical Imaging 38 (2019), 1788-1800.
Please cite it, and the model that you used (its card names the source), in publications.
""")
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted():
    """Offer the samples; keep grids of loaded scenes linear, which Slicer reads back as cubic, panel or not."""
    register_samples(Path(__file__).parent / "Resources/Icons")
    scene = slicer.mrmlScene
    scene.AddObserver(scene.EndImportEvent, lambda caller, event: make_grids_linear(caller))


#
# VoxelMorphRegistrationParameterNode
#


@parameterNodeWrapper
class VoxelMorphRegistrationParameterNode:
    """What the panel is set to, kept in the scene. An empty output means a new node; 0 a default of the model's."""

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    model: str = "auto"
    fixedLabels: LabelsNode
    movingLabels: LabelsNode
    fixedPoints: vtkMRMLMarkupsFiducialNode
    movingPoints: vtkMRMLMarkupsFiducialNode
    fixedMask: LabelsNode
    movingMask: LabelsNode
    furtherFixed1: vtkMRMLScalarVolumeNode
    furtherMoving1: vtkMRMLScalarVolumeNode
    furtherWeight1: Annotated[float, WithinRange(0.1, 10.0), Default(1.0)]
    furtherFixed2: vtkMRMLScalarVolumeNode
    furtherMoving2: vtkMRMLScalarVolumeNode
    furtherWeight2: Annotated[float, WithinRange(0.1, 10.0), Default(1.0)]
    furtherFixed3: vtkMRMLScalarVolumeNode
    furtherMoving3: vtkMRMLScalarVolumeNode
    furtherWeight3: Annotated[float, WithinRange(0.1, 10.0), Default(1.0)]
    initialTransform: vtkMRMLTransformNode
    outputTransform: vtkMRMLTransformNode
    wantVolume: bool = True
    outputVolume: vtkMRMLScalarVolumeNode
    wantJacobian: bool = True
    outputJacobian: vtkMRMLScalarVolumeNode
    wantLabels: bool = True
    outputLabels: LabelsNode
    wantInverse: bool = False
    outputInverse: vtkMRMLTransformNode
    applyToMoving: bool = False
    frames: Annotated[str, Choice(list(FRAMES)), Default(ONE_FRAME)]
    keptTransform: vtkMRMLTransformNode
    quality: Annotated[str, Choice(list(QUALITIES)), Default("best")]
    alignment: Annotated[str, Choice(list(ALIGNMENTS)), Default("affine")]
    passes: Annotated[int, WithinRange(0, 10), Default(0)]
    refinement: Annotated[str, Choice(list(REFINEMENTS)), Default("auto")]
    device: Annotated[str, Choice(list(DEVICES)), Default("auto")]
    similarity: Annotated[str, Choice(list(SIMILARITIES)), Default("auto")]
    smoothness: Annotated[float, WithinRange(0.2, 5.0), Default(1.0)]
    labelWeight: Annotated[float, WithinRange(0.0, 100.0), Default(0.0)]
    landmarkWeight: Annotated[float, WithinRange(0.0, 100.0), Default(0.0)]
    workingSpacing: Annotated[float, WithinRange(0.0, 100.0), Default(0.0)]
    precision: Annotated[str, Choice(list(PRECISIONS)), Default("auto")]
    seed: Annotated[int, WithinRange(0, 1000000), Default(0)]
    labelInterpolation: Annotated[str, Choice(["nearest", "linear"]), Default("nearest")]
    jacobianKind: Annotated[str, Choice(["total", "deformable"]), Default("total")]
    expectedError: Annotated[str, Choice(["auto", "off", "quick", "full"]), Default("auto")]
    jacobianGrid: Annotated[str, Choice(["field", "fixed"]), Default("field")]
    linear: Annotated[str, Choice(["inside", "separate"]), Default("inside")]
    jacobianRange: Annotated[float, WithinRange(0.05, 10.0), Default(1.0)]
    jacobianLegend: bool = True
    gridSpacing: Annotated[float, WithinRange(0.0, 100.0), Default(0.0)]


#
# VoxelMorphRegistrationWidget
#


class VoxelMorphRegistrationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. Its state is the parameter node's; the widgets are bound to it both ways."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self._parameterNode: Any = None
        self._pair = (None, None)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/VoxelMorphRegistration.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = plain.with_plain_texts(slicer.util.childWidgetVariables(uiWidget))
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self._binding = Binding(vars(self.ui).values())
        self.logic = VoxelMorphRegistrationLogic()
        self._models = ModelList(self.ui.modelComboBox, self.ui.addModelButton, self.onModelChosen)
        self._register = RegisterSection(
            self.ui,
            start=self.startRun,
            obstacle=self.obstacle,
            subject=lambda: choices.subject(self._parameterNode or self.logic.getParameterNode()),
            hint=lambda: expected_text(self._parameterNode, self.logic.worker().facts),
            has_torch=lambda: self.logic.hasTorch(),
            summary=summary,
            on_preview=lambda image: self._check.show_preview(image, self._register.run),
            on_finished=self.onFinished,
            on_ended=self.onEnded,
        )
        self._presets = Presets(self.ui)
        self._device = DeviceLine(self.ui.deviceLabel, self.logic, self._register.log, self._register.update)
        self._check = CheckSection(self.ui)
        self._results = ResultsSection(self.ui)
        self._apply = ApplySection(self.ui)
        self._pins = PinSection(self.ui, self.improve, self.settings)
        self._frames = FramesSection(self.ui, on_frame=self.updateFromParameterNode)
        self._further = FurtherSection(self.ui, choices.chosen_pair)
        self._sections = (
            self._further,
            self._frames,
            self._device,
            self._presets,
            self._check,
            self._results,
            self._apply,
            self._pins,
        )

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeAddedEvent, self.onNodesChanged)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodesChanged)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved, priority=EARLY)
        self._nodesTimer = qt.QTimer()
        self._nodesTimer.setSingleShot(True)
        self._nodesTimer.timeout.connect(self.updateFromScene)
        self._shortcut = qt.QShortcut(self.parent)
        self._shortcut.setKey(qt.QKeySequence("Ctrl+Return"))
        self._shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
        self._shortcut.activated.connect(self._register.press)
        self.initializeParameterNode()

    def cleanup(self):
        self._register.cleanup()
        self._nodesTimer.stop()
        self._check.cleanup()
        self._apply.cleanup()
        self.setParameterNode(None)
        self.removeObservers()

    def nodeEditable(self, node):
        """How well this module fits a node that Slicer is to edit: results of a registration are its own."""
        return 0.8 if choices.transform_of(node) is not None else 0.0

    def setEditedNode(self, node, role="", context=""):
        """Show the result that a node belongs to, as by Edit properties in the module Data."""
        self.initializeParameterNode()
        return choices.open_result(self._parameterNode, node)

    def enter(self):
        self.initializeParameterNode()
        self._device.warm_up()

    def exit(self):
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        self._check.forget()
        self._pins.forget()
        self._register.forget()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event):
        """A scene was loaded: its choices replace the panel's."""
        if self._parameterNode:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, node):
        if self._parameterNode and not slicer.mrmlScene.IsClosing():
            choices.leave_node(self._parameterNode, node)

    def onNodesChanged(self, caller, event):
        """Once for many nodes, and not before they are complete."""
        self._nodesTimer.start(50)

    def updateFromScene(self, *unused):
        if self._parameterNode and not slicer.mrmlScene.IsBatchProcessing():
            choices.choose_volumes(self._parameterNode)
            self.updateFromParameterNode()

    def initializeParameterNode(self):
        """Bind the panel to the scene's parameter node; choose the first two volumes where nothing is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        self._presets.recall()
        choices.choose_volumes(self._parameterNode)

    def setParameterNode(self, parameterNode):
        if self._parameterNode:
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateFromParameterNode)
        self._parameterNode = parameterNode
        for section in self._sections:
            section.set_parameters(parameterNode)
        self._binding.connect(parameterNode)
        if self._parameterNode:
            self._pair = choices.chosen_pair(parameterNode)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateFromParameterNode)
            self.updateFromParameterNode()

    def updateFromParameterNode(self, caller=None, event=None):
        """What depends on more than one choice: the outputs' names, the button, the sections of the result."""
        parameters = self._parameterNode
        if choices.chosen_pair(parameters) != self._pair:
            self._pair = choices.chosen_pair(parameters)
            choices.leave_outputs_of_another_pair(parameters)
        self._models.choose(parameters.model)
        for name in ("Volume", "Jacobian", "Labels", "Inverse"):
            selector = getattr(self.ui, f"output{name}Selector")
            selector.enabled = getattr(parameters, f"want{name}") and (
                name != "Labels" or bool(parameters.movingLabels)
            )
        for section in (self._register, *self._sections):
            section.update()

    def onModelChosen(self, name):
        if self._parameterNode:
            self._parameterNode.model = name

    def obstacle(self):
        """Why the registration cannot start, in a sentence; empty when nothing is known against it."""
        parameters = self._parameterNode
        return choices.obstacle(parameters) or self._models.obstacle(parameters.model)

    def settings(self):
        """The panel's choices as settings of the library. Raises SettingsError."""
        return choices.settings_of(self._parameterNode)

    def startRun(self, callbacks):
        parameters = self._parameterNode
        self._pins.leave()
        self._presets.remember()
        sequence, _onto = all_frames(parameters)
        if sequence is not None:
            arguments = sequence_arguments(parameters)
            return self.logic.registerSequenceAsync(sequence, settings=self.settings(), **arguments, **callbacks)
        return self.logic.registerAsync(
            parameters.fixedVolume,
            parameters.movingVolume,
            settings=self.settings(),
            **choices.nodes_of_a_run(parameters),
            **callbacks,
        )

    def improve(self, settings, transform):
        """Go on from a result, guided by pins and segmentations, into new nodes. Returns whether it began."""
        parameters = self._parameterNode
        nodes = choices.nodes_of_a_run(parameters)
        nodes.update({name: None for name in choices.OUTPUT_NODES if nodes[name] is not False})
        nodes.update(initialTransform=None, startFrom=transform)
        pair = (parameters.fixedVolume, parameters.movingVolume)
        return self._register.begin(
            lambda callbacks: self.logic.registerAsync(*pair, settings=settings, **nodes, **callbacks)
        )

    def onFinished(self, outputs):
        self._pins.finished(outputs)
        # Another module may be open by now; the choice is kept in the scene all the same.
        choices.take_outputs(self._parameterNode or self.logic.getParameterNode(), outputs)
        if not isinstance(outputs, SequenceOutputs):
            write_table(outputs.grid_transform)
        if self._parameterNode:
            self.updateFromParameterNode()
            self._results.show_result()
            self._check.show_result()
        else:
            self._check.end_preview()

    def onEnded(self):
        """Cancelled or failed."""
        self._pins.ended()
        self._results.set_aside()
        self._check.end_preview()
        if self._parameterNode:
            self.updateFromParameterNode()
        else:
            self._register.update()


#
# VoxelMorphRegistrationLogic
#


class VoxelMorphRegistrationLogic(ScriptedLoadableModuleLogic):
    """Registration of nodes, for the panel and for scripts. The work itself is done by VoxelMorphRegistrationLib."""

    def getParameterNode(self):
        return wrapper_of(VoxelMorphRegistrationParameterNode, super().getParameterNode())

    @staticmethod
    def hasTorch():
        """Whether PyTorch is installed. It is not imported: it runs in the worker's process."""
        return installing.has_torch()

    def ensureTorch(self):
        """Make PyTorch importable, by the PyTorch extension and with the user's consent. Raises VoxelMorphError."""
        if not self.hasTorch():
            installing.install_torch()

    @staticmethod
    def worker():
        """The worker's client, shared by the panel and all scripts of this Slicer."""
        return shared_client()

    def register(self, fixedNode, movingNode, *, model=None, settings=None, progress=None, **more):
        """Deform the moving volume onto the fixed one and put the results into the scene; returns when it is done.

        model: a shipped model's name or a model file; that of the settings when None. settings: a
        Settings. progress(stage, fraction): return False to cancel. Returns mrml.targets.Outputs: the nodes
        and the report. The worker's process computes, as for registerAsync; Slicer takes no clicks meanwhile.

        Inputs, by name, each None for none: fixedLabels and movingLabels (label map volumes or segmentations),
        fixedPoints and movingPoints (markups), fixedMask and movingMask (either kind of labels), initialTransform (a
        transform, bending or not, that would bring the moving volume to the fixed one), startFrom (the transform of an
        earlier registration, to go on from it), furtherFixed and furtherMoving (lists of volumes that guide it, too).

        Outputs, by name: outputTransform, outputVolume, outputLabels, outputJacobian, outputInverse: a node to
        update, None for a new one, False for none (the default of outputInverse). linear: "inside" the grid transform
        or "separate". applyToMoving: put the moving volume under the transform.

        Raises VoxelMorphError with a plain sentence; the scene is then as before.
        """
        return waited_for(
            lambda **callbacks: self.registerAsync(
                fixedNode, movingNode, model=model, settings=settings, **callbacks, **more
            ),
            progress,
        )

    def registerAsync(
        self,
        fixedNode,
        movingNode,
        *,
        model=None,
        settings=None,
        onFinished=None,
        onError=None,
        onCancelled=None,
        onProgress=None,
        onLog=None,
        onPreview=None,
        **more,
    ):
        """As register, in the worker's process while Slicer goes on. Returns a run at once; run.cancel() discards it,
        run.stop_here() ends it with what there is.

        Exactly one of onFinished(outputs), onError(error) and onCancelled() is called at its end, from Slicer's event
        loop; onProgress(stage, fraction of the stage, seconds so far), onLog(line) and onPreview(image) before, the
        moving image on the fixed grid as it improves. model: a name or a file. Raises VoxelMorphError when it cannot
        start, as when another registration is running.
        """
        settings = settings_with(settings, model)
        reading, targets = prepared(fixedNode, movingNode, self, **more)
        return NodeRun(
            self.worker(),
            (fixedNode, movingNode),
            reading,
            targets,
            settings,
            callbacks_of(onFinished, onError, onCancelled, onProgress, onLog, onPreview),
        )

    def registerSequence(self, sequenceNode, fixedNode=None, *, model=None, settings=None, progress=None, **more):
        """Register all frames of a sequence of volumes (4D) one after the other; returns when it is done.

        They are deformed onto fixedNode, or without one, by the name onto: "mean", their mean, or the number of a
        frame, from 0; the volume made of it is .target of what is returned. By name, too: wantVolume, wantLabels and
        wantJacobian (True), wantInverse (False), applyToMoving, and initialTransform, which counts for each frame;
        fixedLabels, fixedPoints, fixedMask and furtherFixed as of register; movingLabels, movingPoints, movingMask and
        furtherMoving as sequences, or as the nodes that show these. A frame for which one has none goes without it.

        Returns mrml.sequences.SequenceOutputs: sequences of transforms, warped volumes and what else was wanted, in
        the browser of the sequence (a new one where it has none), and a table with a row a frame. A frame that cannot
        be registered is named in .failures and the others go on. progress(stage, fraction) returning False ends it:
        what is finished is kept and returned, and without any Cancelled is raised. Raises VoxelMorphError.
        """
        return waited_for(
            lambda **callbacks: self.registerSequenceAsync(
                sequenceNode, fixedNode, model=model, settings=settings, **callbacks, **more
            ),
            progress,
        )

    def registerSequenceAsync(
        self,
        sequenceNode,
        fixedNode=None,
        *,
        model=None,
        settings=None,
        onFinished=None,
        onError=None,
        onCancelled=None,
        onProgress=None,
        onLog=None,
        onPreview=None,
        **more,
    ):
        """As registerSequence, while Slicer goes on; the callbacks are those of registerAsync. onFinished comes as well
        when run.cancel() was called or a frame failed, with the frames that are finished, if there are any."""
        return sequence_run(
            self,
            sequenceNode,
            fixedNode,
            settings_with(settings, model),
            callbacks_of(onFinished, onError, onCancelled, onProgress, onLog, onPreview),
            **more,
        )


#
# VoxelMorphRegistrationTest
#


class VoxelMorphRegistrationTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer (Reload and Test) and in the project's own test run."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for test in (
            self.test_SameVolumeIsRefused,
            self.test_TwoVolumesGiveNodes,
            self.test_WorkerGivesNodesWhileSlicerGoesOn,
        ):
            self.setUp()
            try:
                test()
            except unittest.SkipTest as reason:
                self.delayDisplay(str(reason))

    def requireTorch(self):
        if not VoxelMorphRegistrationLogic.hasTorch():
            self.skipTest("PyTorch is not installed: tests that register are left out")

    @staticmethod
    def addVolume(name, start):
        """A bright block in a dark volume of 2 mm voxels."""
        array = np.full((40, 40, 40), 10, np.int16)
        array[start : start + 16, 12:28, 12:28] = 200
        return slicer.util.addVolumeFromArray(array, ijkToRAS=np.diag([2.0, 2.0, 2.0, 1.0]), name=name)

    def test_SameVolumeIsRefused(self):
        volume = self.addVolume("Volume", 12)
        count = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(InputError):
            VoxelMorphRegistrationLogic().register(volume, volume)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), count)

    def test_TwoVolumesGiveNodes(self):
        self.requireTorch()
        self.delayDisplay("Registering two small volumes")
        fixed, moving = self.addVolume("Fixed", 10), self.addVolume("Moving", 14)
        settings = Settings(alignment="none", device="cpu", jacobian_grid="fixed")
        nodes = VoxelMorphRegistrationLogic().register(fixed, moving, settings=settings)
        self.assertTrue(nodes.transform.IsA("vtkMRMLTransformNode"))
        self.assertEqual(slicer.util.arrayFromVolume(nodes.volume).shape, (40, 40, 40))
        self.assertEqual(slicer.util.arrayFromVolume(nodes.jacobian).shape, (40, 40, 40))
        similarity = nodes.report.similarity
        self.assertGreater(similarity["after"]["ncc"], similarity["before"]["ncc"])
        self.delayDisplay("Test passed")

    def test_WorkerGivesNodesWhileSlicerGoesOn(self):
        self.requireTorch()
        self.delayDisplay("Registering two small volumes in the worker's process")
        fixed, moving = self.addVolume("Fixed", 10), self.addVolume("Moving", 14)
        settings = Settings(alignment="none", device="cpu")
        ended: list = []
        stages: set[str] = set()
        VoxelMorphRegistrationLogic().registerAsync(
            fixed,
            moving,
            settings=settings,
            onFinished=ended.append,
            onError=ended.append,
            onCancelled=lambda: ended.append(None),
            onProgress=lambda stage, fraction, seconds: stages.add(stage),
        )
        end = time.monotonic() + 300
        while not ended and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)
        self.assertEqual(len(ended), 1)
        self.assertIsInstance(ended[0], Outputs)
        self.assertIn("refining", stages)
        self.assertEqual(slicer.util.arrayFromVolume(ended[0].volume).shape, (40, 40, 40))
        self.delayDisplay("Test passed")
