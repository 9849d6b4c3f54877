"""Register one pair in a process of its own, so that its time can be measured: `python -m ... METHOD PAIR OUT [MODEL]`.

PAIR: a .npz file with fixed and moving (*S) in [0, 1] and spacing along i, j(, k). OUT: a .npz file with displacement
(d, *S) in voxels, channel c along array axis c, and cpu_s, the CPU seconds without the start of the program. METHOD:
syn, or a refinement preset ("off" for the network alone), which need MODEL.
"""

from __future__ import annotations

import sys
import tempfile
import time

import numpy as np


def main(arguments: list[str]) -> None:
    method, pair, output, *model = arguments
    with np.load(pair) as file:
        fixed, moving, spacing = (file[name] for name in ("fixed", "moving", "spacing"))
    if method == "syn":
        displacement, seconds = by_syn(fixed, moving, spacing)
    else:
        displacement, seconds = by_network(fixed, moving, spacing, model[0], method)
    np.savez(output, displacement=displacement, cpu_s=seconds)


def by_network(
    fixed: np.ndarray, moving: np.ndarray, spacing: np.ndarray, model: str, refinement: str
) -> tuple[np.ndarray, float]:
    """This project's registration on the CPU, its model loaded anew."""
    from ...networks.model import load_model
    from ...registration.settings import Settings
    from .scores import registered

    start = time.process_time()
    settings = Settings(alignment="none", refinement=refinement, device="cpu")
    displacement = registered(fixed, moving, spacing.tolist(), load_model(model), settings)
    return displacement, time.process_time() - start


def by_syn(fixed: np.ndarray, moving: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, float]:
    """ANTs' SyN with the settings of its script antsRegistrationSyN.sh (correlation in windows of radius 4, up to
    100x70x50x20 iterations), without its linear stages: the pair is aligned.
    """
    import ants

    # ANTs' arrays are (I, J, K).
    images = [ants.from_numpy(array.T.astype(np.float32), spacing=spacing.tolist()) for array in (fixed, moving)]
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(
            *images,
            type_of_transform="antsRegistrationSyN[so]",
            initial_transform="Identity",
            outprefix=f"{folder}/",
            random_seed=1,
        )
        seconds = time.process_time() - start
        warp = next(path for path in found["fwdtransforms"] if path.endswith("Warp.nii.gz"))
        # mm along i, j(, k): the images have no rotation.
        displacement = ants.image_read(warp).numpy() / spacing
    return np.ascontiguousarray(displacement.T[::-1], np.float32), seconds


if __name__ == "__main__":
    main(sys.argv[1:])
