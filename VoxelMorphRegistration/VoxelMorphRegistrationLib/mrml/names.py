"""Attributes and reference roles that this extension writes on nodes."""

from __future__ import annotations

SETTINGS_ATTRIBUTE = "VoxelMorph.Settings"
REPORT_ATTRIBUTE = "VoxelMorph.Report"
PARENT_ATTRIBUTE = "VoxelMorph.MovingParentToWorld"
LINEAR_ROLE = "VoxelMorph.LinearPart"
INVERSE_ROLE = "VoxelMorph.Inverse"
RESULTS_ROLE = "VoxelMorph.Results"
# On an inverse transform: the way it goes.
DIRECTION_ATTRIBUTE = "VoxelMorph.Direction"
# On a node put under a transform: that transform, and the transform that it was under before.
APPLIED_ROLE = "VoxelMorph.Applied"
FORMER_ROLE = "VoxelMorph.FormerParent"
