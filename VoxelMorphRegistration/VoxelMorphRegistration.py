"""VoxelMorph registration in 3D Slicer: the module, its parameters, its panel, its logic and its test."""

import importlib.util
import time
import unittest
from pathlib import Path
from typing import Annotated, Union

import numpy as np
import vtk
from slicer.util import VTKObservationMixin

import qt
import slicer
from slicer import (
    vtkMRMLGridTransformNode,
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
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
from VoxelMorphRegistrationLib.errors import Cancelled, InputError, VoxelMorphError
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.targets import Outputs, Targets, check_targets
from VoxelMorphRegistrationLib.mrml.view_state import CHECK_ATTRIBUTE
from VoxelMorphRegistrationLib.panel.apply import ApplySection
from VoxelMorphRegistrationLib.panel.check import CheckSection
from VoxelMorphRegistrationLib.panel.messages import tell, told
from VoxelMorphRegistrationLib.panel.models import ModelList
from VoxelMorphRegistrationLib.panel.results import ResultsSection, write_table
from VoxelMorphRegistrationLib.panel.run import NodeRun, keep, shared_client, whole_fraction
from VoxelMorphRegistrationLib.registration.settings import DEVICES, PRECISIONS, REFINEMENTS, SIMILARITIES, Settings

TORCH_REQUIREMENT = ">=2.5"
SAMPLE_CATEGORY = "VoxelMorph"
# Slicer's own samples, given by the persons visible in them for any use: (name, ((node, file, SHA-256), ...)).
SAMPLES = (
    (
        "Two heads, T1",
        (
            ("MRHead", "MR-head.nrrd", "cc211f0dfd9a05ca3841ce1141b292898b2dd2d3f08286affadf823a7e58df93"),
            ("MRBrainT1", "MR-brain-T1.nrrd", "2da3f655ed20356ee8cdf32aa0f8f9420385de4b6e407d28e67f9974d7ce1593"),
        ),
    ),
    (
        "One head, T2 and T1",
        (
            ("MRBrainT2", "MR-brain-T2.nrrd", "fa1fe5910a69182f2b03c0150d8151ac6c75df986449fb5a6c5ae67141e0f5e7"),
            ("MRBrainT1", "MR-brain-T1.nrrd", "2da3f655ed20356ee8cdf32aa0f8f9420385de4b6e407d28e67f9974d7ce1593"),
        ),
    ),
)
INPUT_NODES = (
    "fixedVolume",
    "movingVolume",
    "fixedLabels",
    "movingLabels",
    "fixedPoints",
    "movingPoints",
    "fixedMask",
    "movingMask",
    "initialTransform",
)
OUTPUT_NODES = ("outputTransform", "outputVolume", "outputJacobian", "outputLabels", "outputInverse")
# Before the node selectors, which follow the same events.
EARLY = 100.0
# Seconds without news of a running registration before the panel says so.
QUIET_S = 30.0
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
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer pairs of Slicer's own samples in the module Sample Data; nothing is downloaded."""
    import SampleData

    for name, volumes in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=SAMPLE_CATEGORY,
            sampleName=name,
            uris=[f"{slicer.util.TESTING_DATA_URL}SHA256/{digest}" for _node, _file, digest in volumes],
            fileNames=[file for _node, file, _digest in volumes],
            nodeNames=[node for node, _file, _digest in volumes],
            checksums=[f"SHA256:{digest}" for _node, _file, digest in volumes],
        )


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
    initialTransform: vtkMRMLLinearTransformNode
    outputTransform: vtkMRMLGridTransformNode
    wantVolume: bool = True
    outputVolume: vtkMRMLScalarVolumeNode
    wantJacobian: bool = True
    outputJacobian: vtkMRMLScalarVolumeNode
    wantLabels: bool = True
    outputLabels: LabelsNode
    wantInverse: bool = False
    outputInverse: vtkMRMLGridTransformNode
    applyToMoving: bool = False
    alignment: Annotated[str, Choice(list(ALIGNMENTS)), Default("affine")]
    passes: Annotated[int, WithinRange(0, 10), Default(0)]
    refinement: Annotated[str, Choice(list(REFINEMENTS)), Default("off")]
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
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._pair = (None, None)
        self._run = None
        self._starting = False
        self._warmUpProblem = ""
        self._stage = self._shownObstacle = ""
        self._stages = set()
        self._startTime = self._newsTime = 0.0

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/VoxelMorphRegistration.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self._bound = self.boundWidgets()
        self.logic = VoxelMorphRegistrationLogic()
        self._models = ModelList(self.ui.modelComboBox, self.ui.addModelButton, self.onModelChosen)
        self._check = CheckSection(self.ui)
        self._results = ResultsSection(self.ui)
        self._apply = ApplySection(self.ui)
        self._clock = qt.QTimer()
        self._clock.timeout.connect(self.showProgress)

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
        self.ui.registerButton.clicked.connect(self.onRegister)
        self.ui.copyLogButton.clicked.connect(self.onCopyLog)
        self.initializeParameterNode()

    def cleanup(self):
        if self._run is not None:
            self._run.abandon()
            self.endRun()
        self._nodesTimer.stop()
        self._check.cleanup()
        self._apply.cleanup()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()
        self.warmUp()

    def exit(self):
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        self._check.forget()
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
        """Empty the choices that name the node; a node selector would go on to its next node, output or not."""
        if self._parameterNode and not slicer.mrmlScene.IsClosing():
            for name in (*INPUT_NODES, *OUTPUT_NODES):
                if getattr(self._parameterNode, name) is node:
                    setattr(self._parameterNode, name, None)

    def onNodesChanged(self, caller, event):
        """Once for many nodes, and not before they are complete."""
        self._nodesTimer.start(50)

    def updateFromScene(self, *unused):
        if self._parameterNode and not slicer.mrmlScene.IsBatchProcessing():
            self.chooseVolumes()
            self.updateFromParameterNode()

    def initializeParameterNode(self):
        """Bind the panel to the scene's parameter node; choose the first two volumes where nothing is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        self.chooseVolumes()

    def chooseVolumes(self):
        parameters = self._parameterNode
        if not parameters.fixedVolume and not parameters.movingVolume:
            results = [getattr(parameters, name) for name in OUTPUT_NODES]
            volumes = [
                node
                for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
                if node.GetClassName() == "vtkMRMLScalarVolumeNode"
                and not node.GetHideFromEditors()
                and not node.GetAttribute(CHECK_ATTRIBUTE)
                and not any(node is result for result in results)
            ]
            if len(volumes) > 1:
                parameters.fixedVolume, parameters.movingVolume = volumes[:2]

    def setParameterNode(self, parameterNode):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateFromParameterNode)
        self._parameterNode = parameterNode
        for section in (self._check, self._results, self._apply):
            section.set_parameters(parameterNode)
        if self._parameterNode:
            self._pair = self.chosenPair()
            self._parameterNodeGuiTag = self._parameterNode.connectParametersToGui(self._bound)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateFromParameterNode)
            self.updateFromParameterNode()

    def boundWidgets(self):
        """Each parameter's widget, by the property that the .ui file gives it.

        connectGui of the parameter node would find them itself, but returns no tag to disconnect them with; what stays
        connected sets every list of choices back to its first one when the module is entered again (Slicer's issues
        7545 and 7547).
        """
        named = ((widget.property("SlicerParameterName"), widget) for widget in vars(self.ui).values())
        return {name: widget for name, widget in named if name}

    def updateFromParameterNode(self, caller=None, event=None):
        """What depends on more than one choice: the outputs' names, the button, the sections of the result."""
        parameters = self._parameterNode
        if self.chosenPair() != self._pair:
            self._pair = self.chosenPair()
            self.leaveOutputsOfAnotherPair()
        self._models.choose(parameters.model)
        for name in ("Volume", "Jacobian", "Labels", "Inverse"):
            selector = getattr(self.ui, f"output{name}Selector")
            selector.enabled = getattr(parameters, f"want{name}") and (
                name != "Labels" or bool(parameters.movingLabels)
            )
        self.showDevice()
        self.updateButton()
        for section in (self._check, self._results, self._apply):
            section.update()

    def chosenPair(self):
        nodes = (self._parameterNode.fixedVolume, self._parameterNode.movingVolume)
        return tuple(node.GetID() if node else None for node in nodes)

    def leaveOutputsOfAnotherPair(self):
        """Two other volumes were chosen: the results of the former ones are not overwritten."""
        parameters = self._parameterNode
        transform = parameters.outputTransform
        if not transform or None in self._pair:
            return
        roles = (transform.GetFixedNodeReferenceRole(), transform.GetMovingNodeReferenceRole())
        written = tuple(transform.GetNodeReferenceID(role) for role in roles)
        if None not in written and written != self._pair:
            with slicer.util.NodeModify(parameters):
                for name in OUTPUT_NODES:
                    setattr(parameters, name, None)

    def onModelChosen(self, name):
        if self._parameterNode:
            self._parameterNode.model = name

    # --- the button ---

    def updateButton(self):
        button = self.ui.registerButton
        if self._run is not None:
            button.text, button.enabled = _("Cancel"), True
            button.toolTip = _("Stop the registration; nothing is written")
            return
        if self._starting:
            button.enabled = False
            return
        obstacle = self.obstacle()
        button.text, button.enabled = _("Register"), not obstacle
        button.toolTip = obstacle or _("Deform the moving volume onto the fixed volume")
        # How the last run ended is worth more.
        status = self.ui.statusLabel
        if status.text in ("", self._shownObstacle):
            status.text = self._shownObstacle = obstacle

    def obstacle(self):
        """Why the registration cannot start, in a sentence; empty when nothing is known against it."""
        parameters = self._parameterNode
        if parameters is None:
            return _("The scene is being closed")
        obstacle = self.logic.obstacle(parameters.fixedVolume, parameters.movingVolume)
        if obstacle:
            return obstacle
        if parameters.fixedLabels and not parameters.movingLabels:
            return _("A fixed segmentation is chosen without a moving one; choose both, or the moving one alone")
        if bool(parameters.fixedPoints) != bool(parameters.movingPoints):
            return _("Landmarks are chosen for one volume only; choose fixed and moving landmarks, or none")
        for weight, given, what in (
            (parameters.labelWeight, parameters.fixedLabels, _("segmentations")),
            (parameters.landmarkWeight, parameters.fixedPoints, _("landmarks")),
        ):
            if weight and not given:
                return _("The refinement is to use {what}, but none are chosen").format(what=what)
            if weight and parameters.refinement == "off":
                return _("The {what} have a weight, but the refinement that uses it is off").format(what=what)
        try:
            self.settings()
        except VoxelMorphError as error:
            return str(error)
        return self._models.obstacle(parameters.model)

    def settings(self):
        """The panel's choices as settings of the library. Raises SettingsError."""
        parameters = self._parameterNode
        return Settings(
            model=parameters.model,
            alignment=parameters.alignment,
            passes=parameters.passes or None,
            refinement=parameters.refinement,
            similarity=parameters.similarity,
            smoothness=round(parameters.smoothness, 6),
            label_weight=parameters.labelWeight,
            landmark_weight=parameters.landmarkWeight,
            device=parameters.device,
            precision=parameters.precision,
            working_spacing_mm=parameters.workingSpacing or None,
            seed=parameters.seed,
            label_interpolation=parameters.labelInterpolation,
            jacobian=parameters.jacobianKind,
        )

    def onRegister(self, *unused):
        if self._run is not None:
            self._run.cancel()
            self.ui.registerButton.enabled = False
            self.ui.statusLabel.text = _("Cancelling")
            return
        self.ui.logText.clear()
        # Slicer takes clicks while PyTorch is installed.
        self._starting = True
        self.updateButton()
        if not self.logic.hasTorch():
            self.ui.statusLabel.styleSheet = ""
            self.ui.statusLabel.text = _("PyTorch has to be installed first; this takes minutes")
        try:
            with told():
                try:
                    self._run = self.startRun()
                except VoxelMorphError as error:
                    self.showEnd(str(error), 0, failed=True)
                    raise
        finally:
            self._starting = False
            self.updateButton()
        if self._run is not None:
            self._stage, self._stages, self._startTime = "", set(), time.monotonic()
            self.ui.progressBar.value = 0
            self._newsTime = self._startTime
            self.ui.statusLabel.styleSheet = ""
            self.log(_("Registration started"))
            self.setInputsEnabled(False)
            self._clock.start(500)
            self.showProgress()

    def startRun(self):
        parameters = self._parameterNode
        return self.logic.registerAsync(
            parameters.fixedVolume,
            parameters.movingVolume,
            settings=self.settings(),
            fixedLabels=parameters.fixedLabels,
            movingLabels=parameters.movingLabels,
            fixedPoints=parameters.fixedPoints,
            movingPoints=parameters.movingPoints,
            fixedMask=parameters.fixedMask,
            movingMask=parameters.movingMask,
            initialTransform=parameters.initialTransform,
            outputTransform=parameters.outputTransform,
            outputVolume=parameters.outputVolume if parameters.wantVolume else False,
            outputLabels=parameters.outputLabels if parameters.wantLabels and parameters.movingLabels else False,
            outputJacobian=parameters.outputJacobian if parameters.wantJacobian else False,
            outputInverse=parameters.outputInverse if parameters.wantInverse else False,
            linear=parameters.linear,
            applyToMoving=parameters.applyToMoving,
            onFinished=self.onFinished,
            onError=self.onError,
            onCancelled=self.onCancelled,
            onProgress=self.onProgress,
            onLog=self.log,
        )

    def setInputsEnabled(self, enabled):
        for button in (self.ui.inputsCollapsibleButton, self.ui.outputsCollapsibleButton):
            button.enabled = enabled
        self.ui.settingsCollapsibleButton.enabled = enabled

    # --- a run and its end ---

    def onProgress(self, stage, fraction, seconds):
        self._newsTime = time.monotonic()
        self._stage = stage
        if stage not in self._stages:
            # A model is opened once by the worker and once, for nothing, by the registration.
            self._stages.add(stage)
            self.log(_("{seconds:.1f} s: {stage}").format(seconds=seconds, stage=stage))
        refined = self._parameterNode is None or self._parameterNode.refinement != "off"
        percent = int(100 * whole_fraction(stage, fraction, refined))
        self.ui.progressBar.value = max(percent, self.ui.progressBar.value)
        self.showProgress()

    def showProgress(self, *unused):
        if self._run is None or not self.ui.registerButton.enabled:
            return
        now = time.monotonic()
        text = _("{stage}, {seconds:.0f} s").format(
            stage=(self._stage or _("starting")).capitalize(), seconds=now - self._startTime
        )
        if now - self._newsTime > QUIET_S:
            text += _(" (no news for {seconds:.0f} s; Cancel ends it)").format(seconds=now - self._newsTime)
        self.ui.statusLabel.text = text

    def endRun(self):
        self._run = None
        self._clock.stop()
        self.setInputsEnabled(True)

    def showEnd(self, text, percent, failed=False):
        self.ui.statusLabel.styleSheet = "color: #c62828" if failed else ""
        self.ui.statusLabel.text = text
        self.ui.progressBar.value = percent
        self.log(text)

    def onFinished(self, nodes):
        self.endRun()
        self.showEnd(self.logic.summary(nodes.report), 100)
        parameters = self._parameterNode
        if parameters is None:
            # Another module was opened meanwhile; the choice is kept in the scene all the same.
            parameters = self.logic.getParameterNode()
        with slicer.util.NodeModify(parameters):
            parameters.outputTransform = nodes.grid_transform
            for name in ("volume", "jacobian", "labels", "inverse"):
                node = getattr(nodes, name)
                if node is not None:
                    setattr(parameters, f"output{name.capitalize()}", node)
        for warning in nodes.report.warnings:
            self.log(_("Warning: {text}").format(text=warning))
        write_table(nodes.grid_transform)
        if self._parameterNode:
            self.updateFromParameterNode()
            self._results.show_result()
            self._check.show_result()

    def onError(self, error):
        self.endRun()
        self.showEnd(str(error), 0, failed=True)
        self.updateAfterRun()
        tell(error)

    def onCancelled(self):
        self.endRun()
        self.showEnd(_("Cancelled. Nothing was changed."), 0)
        self.updateAfterRun()

    def updateAfterRun(self):
        if self._parameterNode:
            self.updateFromParameterNode()
        else:
            self.updateButton()

    def log(self, text):
        self.ui.logText.appendPlainText(text)

    def onCopyLog(self, *unused):
        self.ui.logText.selectAll()
        self.ui.logText.copy()

    # --- the worker ---

    def warmUp(self):
        """Start the worker, where PyTorch is there for it, so that the first registration need not wait."""
        if not self.logic.hasTorch():
            self.showDevice()
            return
        self._warmUpProblem = ""
        self.logic.worker().start(on_ready=self.showDevice, on_error=self.onWarmUpFailed)
        self.showDevice()

    def onWarmUpFailed(self, error):
        """Not in the user's way: the same error is told when Register is pressed."""
        self._warmUpProblem = str(error)
        self.log(str(error))
        self.showDevice()

    def showDevice(self, *unused):
        """What the worker found for the chosen device."""
        if not self._parameterNode:
            return
        text, facts = "", self.logic.worker().facts
        if not self.logic.hasTorch():
            text = _("PyTorch is not installed yet")
        elif facts is None:
            text = _("not available; the log says why") if self._warmUpProblem else _("looking for devices")
        else:
            chosen = self._parameterNode.device
            known = [one["text"] for one in facts["devices"] if chosen in ("auto", one["name"])]
            text = known[0] if known else _("not found on this computer")
        self.ui.deviceLabel.text = text


#
# VoxelMorphRegistrationLogic
#


class VoxelMorphRegistrationLogic(ScriptedLoadableModuleLogic):
    """Registration of nodes, for the panel and for scripts. The work itself is done by VoxelMorphRegistrationLib."""

    def getParameterNode(self):
        parameters = VoxelMorphRegistrationParameterNode(super().getParameterNode())
        keep(parameters)
        return parameters

    @staticmethod
    def obstacle(fixedNode, movingNode):
        """Why two volumes cannot be registered, in a sentence; empty when nothing is known against it."""
        if fixedNode is None:
            return _("Choose a fixed volume first")
        if movingNode is None:
            return _("Choose a moving volume first")
        if fixedNode is movingNode:
            return _("The fixed and the moving volume are the same; choose two")
        return ""

    @staticmethod
    def summary(report):
        """One line about a finished registration."""
        similarity, folding = report.similarity, report.folding["inside"]
        return _("Correlation {before:.3f} -> {after:.3f}, folded voxels {folds}, {seconds:.1f} s on {device}").format(
            before=similarity["before"]["ncc"],
            after=similarity["after"]["ncc"],
            folds=folding["count"],
            seconds=report.seconds["total"],
            device=report.device,
        )

    @staticmethod
    def hasTorch():
        """Whether PyTorch is installed. It is not imported: it runs in the worker's process."""
        return importlib.util.find_spec("torch") is not None

    @staticmethod
    def worker():
        """The worker's client, shared by the panel and all scripts of this Slicer."""
        return shared_client()

    def ensureTorch(self):
        """Make PyTorch importable, by the PyTorch extension and with the user's consent. Raises VoxelMorphError."""
        if self.hasTorch():
            return
        try:
            import PyTorchUtils
        except ModuleNotFoundError as error:
            raise VoxelMorphError(
                _(
                    "Registration needs PyTorch. Install the extension 'PyTorch' with the Extensions Manager, "
                    "restart Slicer, and try again."
                )
            ) from error
        try:
            torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
            )
        except Exception as error:
            # Whatever pip, the network or the disk came up with.
            importlib.invalidate_caches()
            if self.hasTorch():
                # It is there and only Slicer's own process could not load it; the worker tells whether it can.
                return
            raise VoxelMorphError(
                _(
                    "PyTorch could not be installed ({error}). Check the internet connection and the disk space, or "
                    "install it in the module 'PyTorch Utils', and try again."
                ).format(error=error)
            ) from error
        if torch is None:
            raise VoxelMorphError(_("PyTorch was not installed, and registration needs it. Nothing was changed."))

    def register(self, fixedNode, movingNode, *, model=None, settings=None, progress=None, **more):
        """Deform the moving volume onto the fixed one and put the results into the scene; returns when it is done.

        model: a shipped model's name or a model file; that of the settings when None. settings: a
        registration.Settings. progress(stage, fraction): return False to cancel. Returns scene.Outputs: the nodes
        and the report. The worker's process computes, as for registerAsync; Slicer takes no clicks meanwhile.

        Inputs, by name, each None for none: fixedLabels and movingLabels (label map volumes or segmentations),
        fixedPoints and movingPoints (markups), fixedMask and movingMask (either kind of labels), initialTransform (a
        linear transform that would bring the moving volume to the fixed one).

        Outputs, by name: outputTransform, outputVolume, outputLabels, outputJacobian, outputInverse: a node to
        update, None for a new one, False for none (the default of outputInverse). linear: "inside" the grid transform
        or "separate". applyToMoving: put the moving volume under the transform.

        Raises VoxelMorphError with a plain sentence; the scene is then as before.
        """
        ended, failed = [], []

        def report(stage, fraction, seconds):
            try:
                goOn = progress is None or progress(stage, fraction) is not False
            except Exception as error:
                # Raised once the run has ended; an event handler would only print it.
                failed.append(error)
                goOn = False
            if not goOn:
                run.cancel()

        run = self.registerAsync(
            fixedNode,
            movingNode,
            model=model,
            settings=settings,
            onFinished=ended.append,
            onError=ended.append,
            onCancelled=lambda: ended.append(Cancelled()),
            onProgress=report,
            **more,
        )
        try:
            while not ended:
                slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)
                time.sleep(0.002)
        except BaseException:
            # Interrupted from the keyboard.
            run.abandon()
            raise
        if failed:
            raise failed[0]
        if isinstance(ended[0], VoxelMorphError):
            raise ended[0]
        return ended[0]

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
        **more,
    ):
        """As register, in the worker's process while Slicer goes on. Returns a run at once; run.cancel() stops it.

        Exactly one of onFinished(outputs), onError(error) and onCancelled() is called at its end, from Slicer's event
        loop; onProgress(stage, fraction of the stage, seconds so far) and onLog(line) before. model: a name or a
        file. Raises VoxelMorphError when it cannot start, as when another registration is running.
        """

        def ignore(*unused):
            return None

        settings = settings or Settings()
        if model is not None:
            settings = settings.replace(model=str(model))
        if Path(settings.model).is_file():
            settings = settings.replace(model=str(Path(settings.model).resolve()))
        inputs, targets = self._prepared(fixedNode, movingNode, **more)
        return NodeRun(
            self.worker(),
            inputs,
            targets,
            settings,
            on_finished=onFinished or ignore,
            on_error=onError or ignore,
            on_cancelled=onCancelled or ignore,
            on_progress=onProgress or ignore,
            on_log=onLog or ignore,
        )

    def _prepared(
        self,
        fixedNode,
        movingNode,
        *,
        fixedLabels=None,
        movingLabels=None,
        fixedPoints=None,
        movingPoints=None,
        fixedMask=None,
        movingMask=None,
        initialTransform=None,
        outputTransform=None,
        outputVolume=None,
        outputLabels=None,
        outputJacobian=None,
        outputInverse=False,
        linear="inside",
        applyToMoving=False,
    ):
        """What is read from the scene and where the results go; nothing is changed. Raises VoxelMorphError."""
        targets = Targets(
            transform=outputTransform,
            volume=outputVolume,
            labels=outputLabels,
            jacobian=outputJacobian,
            inverse=outputInverse,
            linear=linear,
            apply=applyToMoving,
        )
        check_targets(targets, fixedNode, movingNode, fixedLabels, movingLabels, fixedMask, movingMask)

        def read():
            return read_inputs(
                fixedNode,
                movingNode,
                fixed_labels=fixedLabels,
                moving_labels=movingLabels,
                fixed_points=fixedPoints,
                moving_points=movingPoints,
                fixed_mask=fixedMask,
                moving_mask=movingMask,
                initial_transform=initialTransform,
                replaced=outputTransform or None,
            )

        inputs = read()
        if outputLabels and movingLabels is None:
            raise InputError(_("An output for warped labels is chosen, but no moving labels. Choose these, too."))
        if not self.hasTorch():
            self.ensureTorch()
            # The user may have changed the scene during the minutes of the installation.
            inputs = read()
        return inputs, targets


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
        settings = Settings(alignment="none", device="cpu")
        nodes = VoxelMorphRegistrationLogic().register(fixed, moving, settings=settings)
        self.assertTrue(nodes.transform.IsA("vtkMRMLGridTransformNode"))
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
        ended, stages = [], set()
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
        self.assertIn("registering", stages)
        self.assertEqual(slicer.util.arrayFromVolume(ended[0].volume).shape, (40, 40, 40))
        self.delayDisplay("Test passed")
