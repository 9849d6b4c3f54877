"""Quantities and true errors of one case, kept in files and made in pieces: the registrations, and what they tell."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from known_warps import Case, case

from VoxelMorphRegistrationLib.fields.displacement import DisplacementField
from VoxelMorphRegistrationLib.images.grid import Grid
from VoxelMorphRegistrationLib.images.image import resample
from VoxelMorphRegistrationLib.refinement.choice import choose_similarity
from VoxelMorphRegistrationLib.refinement.pair import Pair
from VoxelMorphRegistrationLib.registration.inputs import Inputs, accepted
from VoxelMorphRegistrationLib.registration.intensity import measured_region
from VoxelMorphRegistrationLib.registration.progress import Run
from VoxelMorphRegistrationLib.registration.refining import checks_of, pair_of, refine_pair
from VoxelMorphRegistrationLib.registration.settings import Settings
from VoxelMorphRegistrationLib.trust import quantities as quantities_module
from VoxelMorphRegistrationLib.trust.quantities import quantities
from VoxelMorphRegistrationLib.trust.runs import PLANS, Answers, Plan, answers

# Points looked at of a case.
POINTS = 2000


@dataclass(frozen=True, eq=False)
class Registered:
    """What the registrations of a case gave. seconds: CPU, of the registration and of each ensemble."""

    found: DisplacementField
    similarity: str
    answers: dict[str, Answers]
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class Sample:
    """Of one case: quantities (N, Q) by effort, true errors (N,) in voxels of the working grid, CPU seconds."""

    kind: str
    number: int
    values: dict[str, np.ndarray] = field(repr=False)
    error: np.ndarray = field(repr=False)
    seconds: dict[str, float]


def registered(kind: str, number: int, folder: Path, make: Callable[[str, int], Case] = case) -> Registered:
    """From its file, or made and kept there."""
    path = folder / f"{kind}-{number:03d}.npz"
    if not path.exists():
        found = _made(make(kind, number))
        partial = path.with_suffix(".part.npz")
        np.savez_compressed(partial, **_packed(found))
        partial.rename(path)
    with np.load(path) as packed:
        return _unpacked(packed)


def sample(kind: str, number: int, folder: Path, make: Callable[[str, int], Case] = case) -> Sample:
    """What a case has to say to the fit, from its file, or made and kept there. make: the case that belongs to a kind
    and a number.
    """
    # What other quantities told is not used.
    told_by = hashlib.sha256(Path(quantities_module.__file__).read_bytes()).hexdigest()[:8]
    path = folder / f"{kind}-{number:03d}-{told_by}.npz"
    if path.exists():
        with np.load(path) as packed:
            values = {effort: packed[effort] for effort in PLANS}
            seconds = {name: float(packed[f"seconds/{name}"]) for name in ("registration", *PLANS)}
            return Sample(kind, number, values, packed["error"], seconds)
    made = _sampled(kind, number, folder, make)
    partial = path.with_suffix(".part.npz")
    seconds = {f"seconds/{name}": np.array(value) for name, value in made.seconds.items()}
    np.savez_compressed(partial, error=made.error, **made.values, **seconds)
    partial.rename(path)
    return made


def _sampled(kind: str, number: int, folder: Path, make: Callable[[str, int], Case]) -> Sample:
    one, done = make(kind, number), registered(kind, number, folder, make)
    _, pair = _pair(one)
    values, error = {}, np.zeros(0)
    for effort, plan in PLANS.items():
        seen = quantities(pair, done.found, as_planned(done.answers[effort], plan), done.similarity)
        inside = seen.inside
        if one.known is not None:
            inside = inside & (resample(one.known, seen.grid, None, 0.0).array > 0.5)
        chosen = np.flatnonzero(inside)
        if len(chosen) > POINTS:
            chosen = np.sort(np.random.default_rng(5).choice(chosen, POINTS, replace=False))
        values[effort] = seen.values.reshape(-1, seen.values.shape[-1])[chosen]
        x = seen.grid.positions().reshape(-1, 3)[chosen]
        error = np.linalg.norm(done.found.transform_points(x) - one.truth.transform_points(x), axis=1) / seen.unit
    return Sample(kind, number, values, error, done.seconds)


def as_planned(found: Answers, plan: Plan) -> Answers:
    """Of what is kept, what the plan has: earlier plans had more."""
    return Answers(found.back if plan.back else None, found.returned[: plan.starts], found.fine[: plan.fine_starts])


def _pair(one: Case) -> tuple[Inputs, Pair]:
    """What turns and scales the images is part of the truth: it is for the refinement to find."""
    inputs = accepted(one.fixed, one.moving, Settings(), [])
    return inputs, pair_of(inputs, np.eye(4))


def _made(one: Case) -> Registered:
    inputs, pair = _pair(one)
    begun = time.process_time()
    similarity, _ = choose_similarity(pair, None)
    settings = Settings(refinement=one.preset, similarity=similarity)
    found, _ = refine_pair(pair, None, "cpu", settings, Run(None), checks_of(inputs, settings))
    seconds = {"registration": time.process_time() - begun}
    region, made = measured_region(inputs.moving, None), {}
    for effort, plan in PLANS.items():
        begun = time.process_time()
        made[effort] = answers(pair, found, similarity, region, plan)
        seconds[effort] = time.process_time() - begun
    return Registered(found, similarity, made, seconds)


def _packed(done: Registered) -> dict[str, np.ndarray]:
    fields = {"found": done.found}
    for effort, made in done.answers.items():
        if made.back is not None:
            fields[f"{effort}/back"] = made.back
        for name in ("returned", "fine"):
            fields |= {f"{effort}/{name}{n}": one for n, one in enumerate(getattr(made, name))}
    out: dict[str, np.ndarray] = {"similarity": np.array(done.similarity)}
    for name, one in fields.items():
        out[f"{name}:u"], out[f"{name}:grid"] = one.displacement_ras, one.grid.ijk_to_ras
    for name, value in done.seconds.items():
        out[f"seconds/{name}"] = np.array(value)
    return out


def _unpacked(packed) -> Registered:
    def one(name: str) -> DisplacementField:
        values = packed[f"{name}:u"]
        return DisplacementField(values, Grid(values.shape[:3], packed[f"{name}:grid"]))

    made = {}
    for effort in PLANS:
        starts = []
        for name in ("returned", "fine"):
            count = sum(key.startswith(f"{effort}/{name}") and key.endswith(":u") for key in packed.files)
            starts.append(tuple(one(f"{effort}/{name}{n}") for n in range(count)))
        back = one(f"{effort}/back") if f"{effort}/back:u" in packed.files else None
        made[effort] = Answers(back, *starts)
    seconds = {name.split("/")[1]: float(packed[name]) for name in packed.files if name.startswith("seconds/")}
    return Registered(one("found"), str(packed["similarity"]), made, seconds)
