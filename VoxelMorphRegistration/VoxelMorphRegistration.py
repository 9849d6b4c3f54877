"""VoxelMorph registration in 3D Slicer: the module, its parameters, its panel, its logic and its test."""

import importlib.util
from typing import Annotated

import numpy as np
import vtk
from slicer.util import VTKObservationMixin

import slicer
from slicer import vtkMRMLGridTransformNode, vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, Default, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from VoxelMorphRegistrationLib import display, models, registration, scene
from VoxelMorphRegistrationLib.errors import InputError, VoxelMorphError

TORCH_REQUIREMENT = ">=2.5"


#
# VoxelMorphRegistration
#


class VoxelMorphRegistration(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("VoxelMorph Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = []
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


#
# VoxelMorphRegistrationParameterNode
#


@parameterNodeWrapper
class VoxelMorphRegistrationParameterNode:
    """What the panel is set to, kept in the scene. An empty output means a new node."""

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    model: str = "auto"
    alignment: Annotated[str, Choice(["affine", "rigid", "centers", "mass", "none"]), Default("affine")]
    refinement: Annotated[str, Choice(["off", "fast", "default", "accurate"]), Default("off")]
    device: Annotated[str, Choice(["auto", "cpu", "cuda", "mps"]), Default("auto")]
    outputTransform: vtkMRMLGridTransformNode
    outputVolume: vtkMRMLScalarVolumeNode
    outputJacobian: vtkMRMLScalarVolumeNode
    linear: Annotated[str, Choice(["inside", "separate"]), Default("inside")]
    applyToMoving: bool = False


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

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/VoxelMorphRegistration.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = VoxelMorphRegistrationLogic()
        for name in ["auto", *models.model_names(), "none"]:
            self.ui.modelComboBox.addItem(name)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.modelComboBox.currentIndexChanged.connect(self.onModelChosen)
        self.ui.registerButton.clicked.connect(self.onRegister)
        self.initializeParameterNode()

    def cleanup(self):
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()

    def exit(self):
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Bind the panel to the scene's parameter node; choose the first two volumes where nothing is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        parameters = self._parameterNode
        if not parameters.fixedVolume and not parameters.movingVolume:
            volumes = [
                node
                for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
                if node.GetClassName() == "vtkMRMLScalarVolumeNode"
            ]
            if len(volumes) > 1:
                parameters.fixedVolume, parameters.movingVolume = volumes[:2]

    def setParameterNode(self, parameterNode):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateFromParameterNode)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateFromParameterNode)
            self.updateFromParameterNode()

    def updateFromParameterNode(self, caller=None, event=None):
        """The model's name, and whether the button can be pressed and why not."""
        model = self._parameterNode.model
        if self.ui.modelComboBox.findText(model) < 0:
            # A model file chosen from a script or in a loaded scene.
            self.ui.modelComboBox.addItem(model)
        self.ui.modelComboBox.setCurrentIndex(self.ui.modelComboBox.findText(model))
        obstacle = self.logic.obstacle(self._parameterNode.fixedVolume, self._parameterNode.movingVolume)
        self.ui.registerButton.enabled = not obstacle
        self.ui.registerButton.toolTip = obstacle or _("Deform the moving volume onto the fixed volume")

    def onModelChosen(self, *unused):
        if self._parameterNode:
            self._parameterNode.model = self.ui.modelComboBox.currentText

    def onRegister(self, *unused):
        """Run the registration; a plain error is shown as it is, anything else with its details."""
        parameters = self._parameterNode
        self.ui.registerButton.enabled = False
        try:
            with slicer.util.tryWithErrorDisplay(_("The registration failed unexpectedly."), waitCursor=True):
                try:
                    nodes = self.register(parameters)
                except VoxelMorphError as error:
                    self.showStatus(str(error), 0)
                    slicer.util.errorDisplay(str(error))
                    return
            parameters.outputTransform = nodes.grid_transform
            parameters.outputVolume = nodes.volume
            parameters.outputJacobian = nodes.jacobian
            display.show_overlay(parameters.fixedVolume, nodes.volume)
            self.showStatus(self.logic.summary(nodes.report), 100)
        finally:
            self.updateFromParameterNode()

    def register(self, parameters):
        settings = registration.Settings(
            model=parameters.model,
            alignment=parameters.alignment,
            refinement=parameters.refinement,
            device=parameters.device,
        )
        return self.logic.register(
            parameters.fixedVolume,
            parameters.movingVolume,
            settings=settings,
            outputTransform=parameters.outputTransform,
            outputVolume=parameters.outputVolume,
            outputJacobian=parameters.outputJacobian,
            linear=parameters.linear,
            applyToMoving=parameters.applyToMoving,
            progress=self.onProgress,
        )

    def onProgress(self, stage, fraction):
        self.showStatus(stage, int(100 * fraction))

    def showStatus(self, text, percent):
        """Painted at once: Slicer's event loop does not run while the registration does."""
        self.ui.statusLabel.text = text
        self.ui.progressBar.value = percent
        self.ui.statusLabel.repaint()
        self.ui.progressBar.repaint()


#
# VoxelMorphRegistrationLogic
#


class VoxelMorphRegistrationLogic(ScriptedLoadableModuleLogic):
    """Registration of nodes, for the panel and for scripts. The work itself is done by VoxelMorphRegistrationLib."""

    def getParameterNode(self):
        return VoxelMorphRegistrationParameterNode(super().getParameterNode())

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
    def ensureTorch():
        """Make PyTorch importable, by the PyTorch extension and with the user's consent. Raises VoxelMorphError."""
        if importlib.util.find_spec("torch") is not None:
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
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
        )
        if torch is None:
            raise VoxelMorphError(_("PyTorch was not installed, and registration needs it. Nothing was changed."))

    def register(
        self,
        fixedNode,
        movingNode,
        *,
        model=None,
        settings=None,
        fixedLabels=None,
        movingLabels=None,
        fixedPoints=None,
        movingPoints=None,
        fixedMask=None,
        outputTransform=None,
        outputVolume=None,
        outputLabels=None,
        outputJacobian=None,
        outputInverse=False,
        linear="inside",
        progress=None,
        applyToMoving=False,
    ):
        """Deform the moving volume onto the fixed one and put the results into the scene.

        model: a shipped model's name, a model file or a loaded model; that of the settings when None. settings: a
        registration.Settings. Labels: label map volumes or segmentations; points: markups; fixedMask: either kind of
        labels. Outputs: a node to update, None for a new one, False for none. linear: "inside" the grid transform or
        "separate". progress(stage, fraction): return False to cancel. applyToMoving: put the moving volume under
        the transform. Returns scene.Outputs: the nodes and the report.

        Raises VoxelMorphError with a plain sentence; the scene is then as before.
        """
        targets = scene.Targets(
            transform=outputTransform,
            volume=outputVolume,
            labels=outputLabels,
            jacobian=outputJacobian,
            inverse=outputInverse,
            linear=linear,
            apply=applyToMoving,
        )
        scene.check_targets(targets, fixedNode, movingNode, fixedLabels, movingLabels, fixedMask)
        inputs = scene.read_inputs(
            fixedNode,
            movingNode,
            fixed_labels=fixedLabels,
            moving_labels=movingLabels,
            fixed_points=fixedPoints,
            moving_points=movingPoints,
            fixed_mask=fixedMask,
            replaced=outputTransform or None,
        )
        if outputLabels and movingLabels is None:
            raise InputError(_("An output for warped labels is chosen, but no moving labels. Choose these, too."))
        self.ensureTorch()
        result = registration.register(inputs.fixed, inputs.moving, model, settings, progress, **inputs.arguments())
        return scene.write_outputs(result, inputs, targets)


#
# VoxelMorphRegistrationTest
#


class VoxelMorphRegistrationTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer (Reload and Test) and in the project's own test run."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for test in (self.test_SameVolumeIsRefused, self.test_TwoVolumesGiveNodes):
            self.setUp()
            test()

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
        self.delayDisplay("Registering two small volumes")
        fixed, moving = self.addVolume("Fixed", 10), self.addVolume("Moving", 14)
        settings = registration.Settings(alignment="none", device="cpu")
        nodes = VoxelMorphRegistrationLogic().register(fixed, moving, settings=settings)
        self.assertTrue(nodes.transform.IsA("vtkMRMLGridTransformNode"))
        self.assertEqual(slicer.util.arrayFromVolume(nodes.volume).shape, (40, 40, 40))
        self.assertEqual(slicer.util.arrayFromVolume(nodes.jacobian).shape, (40, 40, 40))
        similarity = nodes.report.similarity
        self.assertGreater(similarity["after"]["ncc"], similarity["before"]["ncc"])
        self.delayDisplay("Test passed")
