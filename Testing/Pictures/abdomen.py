"""The scene of the pictures: a CT of the abdomen, and the same bent by a known warp, with organs and landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cases
import numpy as np

import slicer
from VoxelMorphRegistrationLib.images.files import read_image
from VoxelMorphRegistrationLib.images.image import Image

SEED, LARGEST_MM, NOISE_HU, LANDMARKS = 5, 25.0, 8.0, 4
WINDOW_HU = (-160.0, 240.0)
# Value of the label map (the numbers of TotalSegmentator): name and colour.
ORGANS = {
    5: ("Liver", (0.87, 0.51, 0.40)),
    1: ("Spleen", (0.62, 0.42, 0.41)),
    2: ("Right kidney", (0.73, 0.40, 0.32)),
    3: ("Left kidney", (0.83, 0.49, 0.40)),
    6: ("Stomach", (0.85, 0.52, 0.53)),
    20: ("Colon", (1.00, 0.78, 0.54)),
    21: ("Bladder", (0.87, 0.66, 0.08)),
    52: ("Aorta", (0.88, 0.38, 0.30)),
    28: ("Vertebra L4", (0.95, 0.84, 0.57)),
    29: ("Vertebra L3", (0.95, 0.84, 0.57)),
    30: ("Vertebra L2", (0.95, 0.84, 0.57)),
    77: ("Left hip bone", (0.95, 0.84, 0.57)),
    78: ("Right hip bone", (0.95, 0.84, 0.57)),
}


@dataclass(frozen=True, eq=False)
class Nodes:
    """What a user would have loaded."""

    fixed: object
    moving: object
    fixed_organs: object
    moving_organs: object
    fixed_points: object
    moving_points: object


def make_pair(ct: Path, organs: Path) -> cases.Pair:
    """The CT and its warped copy with noise, both with the organs of ORGANS; points and where they are by the warp."""
    rng = np.random.default_rng(SEED)
    image = read_image(ct, "CT")
    labels = read_image(organs, "organs")
    labels = labels.with_array(np.where(np.isin(np.rint(labels.array), list(ORGANS)), labels.array, 0).astype(np.uint8))
    voxels = np.argwhere(labels.array > 0)[:, ::-1]
    points = image.grid.to_ras(voxels[rng.choice(len(voxels), 2000, replace=False)])
    warp = cases.random_warp(rng, image.grid, points, LARGEST_MM)
    warped = cases.sample_linear(image, image.grid, warp)
    warped = warped.with_array((warped.array + NOISE_HU * rng.normal(size=warped.array.shape)).astype(np.int16))
    maps = {"organs": (labels, cases.sample_nearest(labels, image.grid, warp))}
    truth = warp.backward(points)
    kept = np.flatnonzero(image.grid.contains(truth))
    return cases.Pair(image.with_array(image.array.astype(np.int16)), warped, maps, points[kept], truth[kept])


def add_pair(scene, pair: cases.Pair) -> Nodes:
    """The pair as nodes of a scene."""
    volumes = [_add_volume(image, name) for image, name in ((pair.fixed, "CT 1"), (pair.moving, "CT 2"))]
    maps = zip(pair.labels["organs"], volumes, strict=True)
    organs = [_add_organs(scene, labels, node) for labels, node in maps]
    places = (pair.fixed_points[:LANDMARKS], pair.moving_points[:LANDMARKS])
    points = [_add_points(scene, at, node) for at, node in zip(places, volumes, strict=True)]
    return Nodes(*volumes, *organs, *points)


def _add_volume(image: Image, name: str):
    node = slicer.util.addVolumeFromArray(image.array, ijkToRAS=image.grid.ijk_to_ras, name=name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(*WINDOW_HU)
    return node


def _add_organs(scene, labels: Image, volume):
    """A segmentation as the Segment Editor leaves it: names, colours, the volume's geometry."""
    temporary = slicer.util.addVolumeFromArray(
        labels.array, ijkToRAS=labels.grid.ijk_to_ras, nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"Organs of {volume.GetName()}")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(temporary, node)
    scene.RemoveNode(temporary)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(False)
    segmentation = node.GetSegmentation()
    present = [value for value in sorted(ORGANS) if (labels.array == value).any()]
    for number, value in enumerate(present):
        segment = segmentation.GetNthSegment(number)
        segment.SetName(ORGANS[value][0])
        segment.SetColor(*ORGANS[value][1])
    return node


def _add_points(scene, points: np.ndarray, volume):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"Landmarks of {volume.GetName()}")
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(False)
    for number, point in enumerate(points):
        node.AddControlPoint(*point, f"L{number + 1}")
    return node
