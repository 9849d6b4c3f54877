"""Pairs of Slicer's own samples, offered in the module Sample Data."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

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


def register_samples(icons: Path) -> None:
    """Offer them, each with its picture of the folder `icons`; nothing is downloaded."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):
        logic.registerCustomSampleDataCategory(SAMPLE_CATEGORY, title=_("VoxelMorph registration"))
    for name, volumes in SAMPLES:
        logic.registerCustomSampleDataSource(
            category=SAMPLE_CATEGORY,
            sampleName=name,
            thumbnailFileName=str(icons / thumbnail_of(name)),
            uris=[f"{slicer.util.TESTING_DATA_URL}SHA256/{digest}" for _node, _file, digest in volumes],
            fileNames=[file for _node, file, _digest in volumes],
            nodeNames=[node for node, _file, _digest in volumes],
            checksums=[f"SHA256:{digest}" for _node, _file, digest in volumes],
        )


def thumbnail_of(name: str) -> str:
    """The file of a sample's picture."""
    return "Sample" + "".join(part.capitalize() for part in name.replace(",", " ").split()) + ".png"
