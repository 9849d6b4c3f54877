"""Brains of different people with a dense answer: images drawn from label maps, between which a teacher found the way.

The teacher (`voxelmorph teach`) saw the labels; what registers the images sees the images alone. Those that check the
fit are of people of whom it has seen nobody.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from known_warps import Case

from VoxelMorphRegistrationLib.errors import InputError
from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.grid import Grid, working_grid
from VoxelMorphRegistrationLib.images.image import Image
from VoxelMorphRegistrationLib.training.config import load_config, with_data
from VoxelMorphRegistrationLib.training.shapes import Source
from VoxelMorphRegistrationLib.training.teacher import TeacherSection, TeacherSource

KIND = "brains"
CONFIG = Path(__file__).parents[2] / "Resources" / "Models" / "brain-3d.toml"
# Numbers of the cases that check the fit, and of those that are fitted.
CHECK, FIT = range(8), range(10, 26)
# Voxel sizes in mm, in turn, and how wide the field of view is, mm.
SPACINGS, VIEW = (2.0, 1.5, 3.0, 2.0), 176.0


class People:
    """Cases by number: pairs of people in turn, two of three drawn alike, the third with contrasts of their own."""

    def __init__(self, maps: Path, fields: Path) -> None:
        """maps: a folder of label maps. fields: of the teacher's fields between them. Raises InputError."""
        self._config = with_data(load_config(CONFIG), maps)
        self._maps = self._config.label_maps()
        self._teacher = TeacherSource(TeacherSection(str(fields), 1.0), self._maps, Path())
        answers = self._teacher.answers
        self._check = answers[: len(CHECK)]
        seen = {person.name for one in self._check for person in (one.fixed, one.moving)}
        self._fit = [one for one in answers if not seen & {one.fixed.name, one.moving.name}]
        if not self._fit:
            raise InputError(f"The fields in {fields} leave nobody to fit: make more of them.")

    def case(self, kind: str, number: int) -> Case:
        """The case that belongs to a number. kind: KIND."""
        assert kind == KIND
        answers = self._check if number in CHECK else self._fit
        spacing, like = SPACINGS[number % len(SPACINGS)], number % 3 != 2
        maps, teacher = copy.copy(self._maps), copy.copy(self._teacher)
        maps.recipe = replace(self._config.shapes, related=float(like), noise=(0.0, 0.05))
        maps.section = replace(
            self._maps.section,
            spacing_mm=(spacing, spacing),
            rotation=3.0,
            flip=False,
            typical_share=0.8 if like else 0.3,
        )
        teacher.maps, teacher.answers = maps, [answers[number % len(answers)]]
        shape = tuple(2 * round(VIEW / spacing / 2) for _ in range(3))
        pair = teacher.pair(shape, Source(torch.device("cpu"), np.random.default_rng((19, 100, number))))
        grid = Grid(shape, np.diag([spacing, spacing, spacing, 1.0]))
        half = working_grid(grid, 2 * grid.spacing)
        assert pair.displacement is not None and pair.visible is not None
        fixed, moving = (
            Image(np.ascontiguousarray(volume[0, 0].numpy() * 1000.0), grid, name)
            for volume, name in ((pair.fixed, "fixed"), (pair.moving, "moving"))
        )
        known = Image((pair.visible[0, 0].numpy() > 0.9).astype(np.uint8), half)
        return Case(fixed, moving, DisplacementField.from_voxels(pair.displacement[0].numpy(), half), known=known)
