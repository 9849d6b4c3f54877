"""The question whether a stranger's model, which is a program, may run all the same."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ..errors import UntrustedModelError
from .plain import plain

# Files that were trusted since Slicer started, as they were then.
_trusted: set[tuple[str, int, int]] = set()


def trusts(error: UntrustedModelError, model: str) -> bool:
    """Whether the user trusts the model file: asked once for a file as it is, with what was found in it.

    No is what closing the question answers, and what tests and scripts get.
    """
    path = Path(model)
    if not path.is_file():
        return False
    facts = path.stat()
    known = str(path.resolve()), facts.st_mtime_ns, facts.st_size
    if known in _trusted:
        return True
    question = _(
        "{found}\n\nA model file is a program: if it was made to do harm, it can read, change and delete your files, "
        "and send them elsewhere. Run it only if you trust who made it, and the place that you have it from.\n\n"
        "Trust {file} and run it?"
    ).format(found=str(error).removesuffix(UntrustedModelError.HOW), file=path)
    if not slicer.util.confirmYesNoDisplay(plain(question), windowTitle=_("A model that could do harm")):
        return False
    _trusted.add(known)
    return True
