"""Segmentations of boxes and closed surfaces."""

from __future__ import annotations

import vtk

SURFACE = "Closed surface"


def sphere(center, radius: float):
    source = vtk.vtkSphereSource()
    source.SetCenter(*center)
    source.SetRadius(radius)
    source.SetThetaResolution(60)
    source.SetPhiResolution(60)
    source.Update()
    return source.GetOutput()


def add_surfaces(scene, spheres, name="Surfaces"):
    """A segmentation made of surfaces only: [(centre, radius), ...] in its own RAS mm."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.GetSegmentation().SetSourceRepresentationName(SURFACE)
    for n, (center, radius) in enumerate(spheres):
        node.AddSegmentFromClosedSurfaceRepresentation(sphere(center, radius), f"Sphere {n}", (0.9, 0.2, 0.1))
    return node
