"""The moving image as it is so far, in a file that is replaced while a registration improves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import OutputError
from ..images.files import write_image
from ..registration.result import Preview

PREVIEW = "preview.nii.gz"


class PreviewFolder:
    """Writes previews into a folder. Raises OutputError, at once, where one is there that may not be replaced."""

    def __init__(self, folder: str | Path, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> None:
        """inputs: files that are read, none of which is ever replaced."""
        self.path = Path(folder) / PREVIEW
        if self.path.exists() and any(Path(one).exists() and self.path.samefile(one) for one in inputs):
            raise OutputError(f"The input {self.path} would be replaced by the preview. Give another folder.")
        if self.path.exists() and not overwrite:
            raise OutputError(f"{self.path} exists. Give another folder, or --overwrite to replace it.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Nothing can be written to {self.path.parent}: {error.strerror}. Choose another folder."
            ) from error

    def __call__(self, preview: Preview) -> None:
        """Replace the file by this preview; who reads it sees the former or this one, whole."""
        try:
            with tempfile.TemporaryDirectory(prefix=".voxelmorph-", dir=self.path.parent) as stage:
                write_image(preview.warped.renamed("preview"), Path(stage) / PREVIEW)
                (Path(stage) / PREVIEW).replace(self.path)
        except OSError as error:
            raise OutputError(
                f"The preview could not be written to {self.path}: {error.strerror}. Check the free space."
            ) from error
