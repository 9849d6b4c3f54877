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
# One text for all nodes, and the report, of one run.
RUN_ATTRIBUTE = "VoxelMorph.Run"
# On a transform: the nodes of its run, by kind, and what was given besides the volumes for each side.
RESULT_KINDS = ("volume", "labels", "jacobian", "expected_error", "inverse")
RESULT_ROLES = {kind: f"VoxelMorph.Result.{kind}" for kind in RESULT_KINDS}
SIDE_ROLES = {"fixed": "VoxelMorph.FixedSide", "moving": "VoxelMorph.MovingSide"}
# Where the volumes lay: {"fixed": 4x4, "moving": 4x4} from voxels to the world, and the start that was given.
PLACES_ATTRIBUTE = "VoxelMorph.Places"
START_ATTRIBUTE = "VoxelMorph.InitialTransform"
# Which frame of a sequence a volume was.
FRAME_ATTRIBUTE = "VoxelMorph.Frame"
# On a node that shows one of a sequence of results: that sequence. Attributes change with the frame, references stay.
SEQUENCE_ROLE = "VoxelMorph.Sequence"
