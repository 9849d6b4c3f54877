"""Known registrations and MRML nodes for the tests of scene and display."""

from __future__ import annotations

import copy

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.fields.warp import warp_image, warp_labels
from VoxelMorphRegistrationLib.images.grid import Grid, working_grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.mrml.inputs import read_inputs
from VoxelMorphRegistrationLib.mrml.transforms import image_data
from VoxelMorphRegistrationLib.mrml.volumes import image_from_node
from VoxelMorphRegistrationLib.registration.report import Report
from VoxelMorphRegistrationLib.registration.result import Registration
from VoxelMorphRegistrationLib.registration.settings import Settings


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """(3, 3) from angles in degrees about R, A, S."""
    a, b, c = np.radians([x, y, z])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


def affine(linear=None, shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    if linear is not None:
        matrix[:3, :3] = linear
    matrix[:3, 3] = shift
    return matrix


def centred_grid(shape, spacing, turn=None, flips=(1, 1, 1), center=(0.0, 0.0, 0.0)) -> Grid:
    """A grid whose middle is at `center`."""
    matrix = affine((np.eye(3) if turn is None else turn) * (np.array(spacing) * np.array(flips)))
    middle = (np.array(shape[::-1]) - 1) / 2
    matrix[:3, 3] = np.array(center) - matrix[:3, :3] @ middle
    return Grid(shape, matrix)


FIXED_GRIDS = {
    "axis aligned": centred_grid((20, 22, 24), (2.0, 2.0, 2.0)),
    "oblique": centred_grid((20, 24, 18), (2.0, 1.5, 2.5), rotation(20, -15, 35)),
    "anisotropic left-handed": centred_grid((12, 26, 30), (1.4, 1.6, 4.0), rotation(0, 0, 10), (-1, 1, 1)),
    "oblique left-handed": centred_grid((18, 20, 22), (2.2, 1.8, 2.4), rotation(-30, 10, 50), (1, -1, 1)),
}
MOVING_GRID = centred_grid((22, 30, 26), (1.9, 1.7, 2.3), rotation(-12, 25, 8), (1, 1, -1))
PARENTS = {
    "no parents": (None, None),
    "fixed moved": (affine(rotation(10, 5, -20), (3, -4, 5)), None),
    "moving moved": (None, affine(rotation(-15, 40, 70) * 1.1, (-6, 2, 9))),
    "both moved": (
        affine(rotation(30, 0, 15) @ np.diag([1.05, 0.9, 1.0]), (1, 2, 3)),
        affine(rotation(0, 90, 0), (4, 0, -3)),
    ),
}


def add_parent(scene, node, to_world: np.ndarray | None):
    if to_world is None:
        return None
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode", f"parent of {node.GetName()}")
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(to_world))
    node.SetAndObserveTransformNodeID(parent.GetID())
    return parent


def add_volume(array, grid: Grid, name: str, node_class: str = "vtkMRMLScalarVolumeNode"):
    return slicer.util.addVolumeFromArray(array, ijkToRAS=grid.ijk_to_ras, name=name, nodeClassName=node_class)


def blobs(grid: Grid, seed: int = 0, positions: np.ndarray | None = None) -> np.ndarray:
    """A smooth picture on the grid, 0 to about 1000; or what it is at other positions (..., 3)."""
    key = _key(grid, seed, positions)
    if key not in _pictures:
        _pictures[key] = _blobs(grid, seed, grid.positions() if positions is None else positions)
    return _pictures[key].copy()


def _blobs(grid: Grid, seed: int, positions: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.zeros(positions.shape[:-1])
    for _ in range(12):
        center = grid.to_ras(rng.uniform(0.15, 0.85, 3) * grid.size)
        distance = ((positions - center) ** 2).sum(-1)
        out += rng.uniform(200, 700) * np.exp(-distance / (2 * rng.uniform(5, 10) ** 2))
    return (1000 * out / out.max()).astype(np.float32)


def analytic_displacement(points: np.ndarray) -> np.ndarray:
    """A smooth, fold-free deformation in mm, a few mm in size, not linear along any axis."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack(
        [2.0 * np.sin(x / 11 + y / 17), 1.5 * np.cos(y / 13 - z / 19) + 0.5, 1.8 * np.sin(z / 12 + x / 23)], -1
    )


LINEAR = affine(rotation(4, -3, 6) @ np.diag([1.04, 0.97, 1.02]), (1.5, -2.0, 1.0))


# What was computed of pictures and known registrations, by all that it was computed from.
_pictures: dict[tuple, np.ndarray] = {}
_made: dict[tuple, Registration] = {}


def _key(*parts) -> tuple:
    """Of images, grids, arrays and what is hashable already."""
    found: list = []
    for part in parts:
        if isinstance(part, Image):
            found += [part.name, part.array.dtype.str, part.array.tobytes(), *_key(part.grid)]
        elif isinstance(part, Grid):
            found += [part.shape, part.ijk_to_ras.tobytes()]
        else:
            found.append(part.tobytes() if isinstance(part, np.ndarray) else part)
    return tuple(found)


def make_registration(
    fixed: Image, moving: Image, moving_labels: Image | None = None, grid: Grid | None = None
) -> Registration:
    """The result that a network would give that found `analytic_displacement` after the alignment LINEAR."""
    key = _key(fixed, moving, moving_labels, grid)
    if key not in _made:
        _made[key] = _make_registration(fixed, moving, moving_labels, grid)
    return copy.deepcopy(_made[key])


def _make_registration(fixed: Image, moving: Image, moving_labels: Image | None, grid: Grid | None) -> Registration:
    grid = grid or working_grid(fixed.grid, 2.0, 4)
    field = DisplacementField(analytic_displacement(grid.positions()), grid)
    warped = warp_image(moving, fixed.grid, field, LINEAR)
    labels = None if moving_labels is None else warp_labels(moving_labels, fixed.grid, field, LINEAR, "nearest")
    jacobian = field.jacobian_determinant(fixed.grid, linear=LINEAR)
    report = Report(
        similarity={"after": {"ncc": 0.9, "mi": float("nan")}},
        folding={},
        largest_displacement_mm=3.0,
        linear=LINEAR.tolist(),
        settings={**Settings().__dict__},
    )
    return Registration(field, LINEAR, warped, jacobian, report, labels)


def make_nodes(scene, fixed_grid="oblique", parents="no parents", shift_mm=None):
    """Fixed and moving volume nodes, the second one under its parent such that both overlap in the world.

    parents: a key of PARENTS, or the two matrices. shift_mm: how far the moving volume's picture lies from the fixed
    one's in the world; None for another picture.
    """
    fixed_parent, moving_parent = PARENTS[parents] if isinstance(parents, str) else parents
    grid = FIXED_GRIDS[fixed_grid]
    fixed_node = add_volume(blobs(grid, 1), grid, "Fixed")
    add_parent(scene, fixed_node, fixed_parent)
    own = MOVING_GRID if moving_parent is None else MOVING_GRID.transformed(np.linalg.inv(rigid_part(moving_parent)))
    picture = blobs(own, 2)
    if shift_mm is not None:
        to_fixed = affine() if fixed_parent is None else np.linalg.inv(fixed_parent)
        to_fixed = (
            to_fixed
            @ affine(shift=-np.asarray(shift_mm, float))
            @ (affine() if moving_parent is None else moving_parent)
        )
        picture = blobs(grid, 1, own.positions() @ to_fixed[:3, :3].T + to_fixed[:3, 3])
    moving_node = add_volume(picture, own, "Moving")
    add_parent(scene, moving_node, moving_parent)
    return fixed_node, moving_node


def rigid_part(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    return affine(u @ vt, matrix[:3, 3])


def slicer_reslice(scene, moving_node, fixed_node, background: float = 0.0) -> np.ndarray:
    """What Slicer makes of the moving volume, under whatever transforms it is, on the grid of the fixed one."""
    general = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        fixed_node.GetParentTransformNode(), moving_node.GetParentTransformNode(), general
    )
    to_ijk, to_ras = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    moving_node.GetRASToIJKMatrix(to_ijk)
    fixed_node.GetIJKToRASMatrix(to_ras)
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    whole.Concatenate(to_ras)
    whole.Concatenate(general)
    whole.Concatenate(to_ijk)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(moving_node.GetImageData())
    reslice.SetResliceTransform(whole)
    reslice.SetInterpolationModeToLinear()
    reslice.SetOutputScalarType(vtk.VTK_FLOAT)
    reslice.SetBackgroundLevel(background)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(*fixed_node.GetImageData().GetExtent())
    reslice.Update()
    output = reslice.GetOutput()
    return vtk_to_numpy(output.GetPointData().GetScalars()).reshape(output.GetDimensions()[::-1])


def from_world(node, points: np.ndarray) -> np.ndarray:
    """World points through a transform node: what a volume under the node is sampled at."""
    general = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(general)
    return np.array([general.TransformPoint(point) for point in points])


def scene_state(scene) -> list[tuple]:
    """Ids, classes, names, attributes and references of every node, to see that nothing changed."""
    state = []
    for n in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(n)
        roles = sorted({node.GetNthNodeReferenceRole(r) for r in range(node.GetNumberOfNodeReferenceRoles())})
        references = tuple((role, node.GetNodeReferenceID(role)) for role in roles if node.GetNodeReferenceID(role))
        attributes = tuple((name, node.GetAttribute(name)) for name in node.GetAttributeNames())
        state.append((node.GetID(), node.GetClassName(), node.GetName(), references, attributes))
    return state


def prepared(scene, fixed_grid="oblique", parents="no parents", **inputs):
    fixed_node, moving_node = make_nodes(scene, fixed_grid, parents)
    read = read_inputs(fixed_node, moving_node, **inputs)
    labels = read.moving_labels.image if read.moving_labels else None
    return read, make_registration(read.fixed, read.moving, labels)


def sampled(points: np.ndarray, count: int = 400) -> np.ndarray:
    return np.random.default_rng(0).permutation(points.reshape(-1, 3))[:count]


def label_array(grid: Grid) -> np.ndarray:
    array = np.zeros(grid.shape, np.uint8)
    k, j, i = (np.array(grid.shape) // 4).tolist()
    array[k : 3 * k, j : 3 * j, i : 2 * i] = 3
    array[k : 3 * k, j : 3 * j, 2 * i : 3 * i] = 9
    return array


def add_label_map(scene, volume_node, name="Structures"):
    image = image_from_node(volume_node)
    node = add_volume(label_array(image.grid), image.grid, name, "vtkMRMLLabelMapVolumeNode")
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    return node


def add_segmentation(scene, volume_node, names=("Liver", "Kidney"), name="Segments"):
    label_map = add_label_map(scene, volume_node, "temporary")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, node)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    for n, segment_name in enumerate(names):
        segment = node.GetSegmentation().GetNthSegment(n)
        segment.SetName(segment_name)
        segment.SetColor(0.1 + 0.3 * n, 0.6, 0.9 - 0.3 * n)
        segment.SetTag("note", f"tag of {segment_name}")
    scene.RemoveNode(label_map)
    return node


def add_sequence(scene, grid: Grid, shifts_mm, name="Breath", browsed=True, parent=None):
    """A sequence of volumes: the picture of make_nodes, moved by so much in each frame. (sequence, browser, proxy)."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for number, shift in enumerate(shifts_mm):
        array = blobs(grid, 1, grid.positions() - np.asarray(shift, float))
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.SetName(f"{name} {number}")
        matrix = slicer.util.vtkMatrixFromArray(grid.ijk_to_ras)
        volume.SetIJKToRASMatrix(matrix)
        volume.SetAndObserveImageData(image_data(array))
        sequence.SetDataNodeAtValue(volume, f"{0.5 * number:g}")
    if not browsed:
        return sequence, None, None
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    proxy = browser.GetProxyNode(sequence)
    if proxy is None:
        first = slicer.vtkMRMLScalarVolumeNode()
        first.CopyContent(sequence.GetNthDataNode(0), True)
        proxy = browser.AddProxyNode(first, sequence, True)
    proxy.SetName(name)
    add_parent(scene, proxy, parent)
    return sequence, browser, proxy


def add_synchronized(browser, like, frames, name="Structures of frames"):
    """A sequence of copies of a node, which is removed, for these frames of a browser. Returns the node it shows."""
    scene, master = browser.GetScene(), browser.GetMasterSequenceNode()
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    for number in frames:
        sequence.SetDataNodeAtValue(like, master.GetNthIndexValue(number))
    scene.RemoveNode(like)
    browser.AddSynchronizedSequenceNode(sequence)
    proxy = browser.GetProxyNode(sequence)
    if proxy is None:
        first = scene.AddNewNodeByClass(sequence.GetDataNodeClassName(), name)
        first.CopyContent(sequence.GetNthDataNode(0), True)
        proxy = browser.AddProxyNode(first, sequence, False)
    return proxy
