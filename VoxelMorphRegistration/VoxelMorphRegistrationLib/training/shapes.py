"""Registration pairs made of random shapes: no image data is needed to train a network.

The recipe follows Hoffmann et al., "SynthMorph: learning contrast-invariant registration without acquired images",
IEEE TMI 2022: label maps from smooth noise, two warped copies of one map, an image of arbitrary contrast from each.
Added here: shapes with layered rims on a black background (skull-stripped heads, bodies), pairs of related contrast,
and the true displacement between both copies.

Everything is drawn on the device asked for and depends only on the seed, so a step can be repeated at any time.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..images.sampling import compose, gaussian_smooth, integrate, sample, voxel_positions, warp
from .pairs import StepSizes, TrainingPair

INTEGRATION_STEPS = 5
RIM_LABELS = 3
# Ultrasound and another modality: nothing in common but structure, and aligned hardly better than by their centres.
BEFORE_ULTRASOUND: dict[str, Any] = {
    "foreground": 0.3,
    "related": 0.0,
    "blur": (0.5, 2.5),
    "rotation": 5.0,
    "scaling": 0.15,
    "translation": 4.0,
}


@dataclass(frozen=True)
class ShapeRecipe:
    """What the random shapes look like. Ranges are (lowest, highest), drawn evenly; lengths are in voxels.

    labels: regions in a map. coarsest: largest noise spacing of a map (a power of two). roughness: exponent b of the
    amplitudes spacing^b (small: ragged shapes). displacement: standard deviation of each copy's smooth displacement.
    rotation (degrees), scaling and translation: the residual affine. foreground: probability of a body with
    a layered rim on black. related: probability that both images have nearly the same contrast. ultrasound: share of
    pairs with one image drawn as ultrasound shows things, in a coarser position.
    """

    labels: tuple[int, int] = (5, 16)
    coarsest: int = 16
    roughness: tuple[float, float] = (0.6, 2.0)
    displacement: tuple[float, float] = (0.2, 2.2)
    rotation: float = 3.0
    scaling: float = 0.05
    translation: float = 2.0
    foreground: float = 0.6
    related: float = 0.6
    blur: tuple[float, float] = (0.0, 1.0)
    noise: tuple[float, float] = (0.0, 0.04)
    bias: float = 0.25
    gamma: float = 0.25
    ultrasound: float = 0.0


class ShapeSource:
    """Pairs of random shapes."""

    facts = "random shapes drawn on the fly; no images, no labels of anatomy"

    def __init__(self, recipe: ShapeRecipe, sizes: StepSizes, seed: int) -> None:
        self.recipe, self.sizes, self.seed = recipe, sizes, seed

    def pair(self, stream: int, number: int, device: torch.device | str) -> TrainingPair:
        """The pair that belongs to (seed, stream, number)."""
        shape = self.sizes.of(self.seed, stream, number)
        return random_pair(self.recipe, shape, (self.seed, stream, number), device)


@dataclass
class Source:
    """The random numbers of one pair: `numbers` for single values, `tensors` for fields on the device."""

    device: torch.device
    numbers: np.random.Generator
    tensors: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = torch.Generator(self.device).manual_seed(int(self.numbers.integers(2**62)))

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.tensors, device=self.device)

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.tensors, device=self.device)

    def within(self, bounds: tuple[float, float]) -> float:
        return float(self.numbers.uniform(*bounds))

    def chance(self, probability: float) -> bool:
        return bool(self.numbers.random() < probability)


def random_pair(
    recipe: ShapeRecipe, shape: tuple[int, ...], seed: tuple[int, ...], device: torch.device | str = "cpu"
) -> TrainingPair:
    """The pair that belongs to `seed` (any integers, e.g. run and step) on a grid of `shape` (even sizes)."""
    source = Source(torch.device(device), np.random.default_rng(seed))
    echoes = recipe.ultrasound > 0 and source.chance(recipe.ultrasound)
    if echoes:
        recipe = replace(recipe, **BEFORE_ULTRASOUND)
    labels, count, black = label_map(recipe, shape, source)
    to_base_f, to_base_m, truth = two_warps(recipe, shape, source)
    means_f, means_m = contrasts(recipe, count, source)
    values = torch.stack([means_f[labels[0, 0]], means_m[labels[0, 0]]])[:, None]
    warps = torch.cat([to_base_f, to_base_m])
    drawn = warp(values, warps)
    # Labels as floats: nearest sampling of small integers is exact.
    moved = sample(labels.float().expand(2, *labels.shape[1:]), voxel_positions(warps), mode="nearest").long()
    probabilities = half_resolution_labels(moved, count)
    if black:
        visible, outside = 1.0 - probabilities[:1, :1], moved == 0
    else:
        visible, outside = torch.ones_like(probabilities[:1, :1]), torch.zeros_like(moved, dtype=torch.bool)
    if echoes:
        one = int(source.chance(0.5))
        seen = field_of_view(shape, source)
        drawn[one] = torch.where(seen, ultrasound(drawn[one : one + 1], source), 0.0)[0]
        outside[one] |= ~seen[0]
        if one == 0:
            visible = visible * half_resolution_labels(seen.long(), 2)[:, 1:]
    images = [finish_image(recipe, drawn[i : i + 1], outside[i : i + 1], source) for i in (0, 1)]
    return TrainingPair(images[0], images[1], probabilities[:1], probabilities[1:], truth, visible)


def ultrasound(image: torch.Tensor, source: Source) -> torch.Tensor:
    """What ultrasound shows of mean intensities (1, 1, *S): echoes at interfaces, speckle, and less with depth."""
    # Of drawn intensities some are below 0: there the logarithm would have none.
    volume = image[0, 0].clamp_min(0)
    edges = torch.stack(torch.gradient(gaussian_smooth(image, (1.0,) * volume.dim())[0, 0])).norm(dim=0)
    volume = source.within((0.3, 1.0)) * volume + source.within((0.0, 4.0)) * edges
    # The length of a smooth complex noise is speckle (Rayleigh).
    grain = (source.within((0.5, 2.5)),) * volume.dim()
    speckle = gaussian_smooth(source.normal(1, 2, *volume.shape), grain)[0].norm(dim=0)
    volume = volume * torch.lerp(torch.ones_like(speckle), speckle / speckle.mean(), source.within((0.0, 0.8)))
    axis = int(source.numbers.integers(volume.dim()))
    depth = torch.linspace(0.0, 1.0, volume.shape[axis], device=source.device)
    if source.chance(0.5):
        depth = depth.flip(0)
    loss = torch.exp(-source.within((0.0, 3.0)) * depth).reshape([-1 if a == axis else 1 for a in range(volume.dim())])
    blurred = gaussian_smooth((volume * loss)[None, None], (source.within((0.3, 2.0)),) * volume.dim())
    # Logarithmic compression, as scanners show it.
    strength = source.within((0.5, 10.0))
    return torch.log1p(strength * blurred) / float(np.log1p(strength))


def field_of_view(shape: tuple[int, ...], source: Source) -> torch.Tensor:
    """Where a probe sees, (1, 1, *S) of bool: near a point on one side and within a cone, or in an ellipsoid."""
    lines = [torch.linspace(-1.0, 1.0, size, device=source.device) for size in shape]
    place = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    if source.chance(0.5):
        radius = place.new_tensor([source.within((0.6, 1.3)) for _ in shape]).reshape(-1, *[1] * len(shape))
        return ((place / radius).square().sum(0) < 1.0)[None, None]
    axis = int(source.numbers.integers(len(shape)))
    probe = torch.zeros(len(shape), device=source.device)
    probe[axis] = source.within((1.0, 1.4)) * (1 if source.chance(0.5) else -1)
    away = place - probe.reshape(-1, *[1] * len(shape))
    length = away.norm(dim=0)
    along = away[axis].abs()
    return ((length < source.within((1.6, 2.4))) & (along > np.cos(source.within((0.6, 1.2))) * length))[None, None]


def pyramid_noise(channels: int, shape: tuple[int, ...], amplitudes: dict[int, float], source: Source) -> torch.Tensor:
    """Sum of smooth noises (1, channels, *shape): `amplitudes` by spacing in voxels, spacings powers of two.

    Doubling step by step, linear each time, gives smoother fields than one large linear step.
    """
    spacing = max(amplitudes)
    total: torch.Tensor | None = None
    while True:
        size = tuple(max(1, -(-s // spacing)) for s in shape)
        if total is not None:
            total = F.interpolate(total, size=size, mode="bilinear" if len(shape) == 2 else "trilinear")
        if amplitudes.get(spacing, 0.0) > 0:
            layer = amplitudes[spacing] * source.normal(1, channels, *size)
            total = layer if total is None else total + layer
        if spacing == 1:
            assert total is not None, "no amplitude"
            return total
        spacing //= 2


def label_map(recipe: ShapeRecipe, shape: tuple[int, ...], source: Source) -> tuple[torch.Tensor, int, bool]:
    """A map (1, 1, *shape) of labels, their number, and whether label 0 is black background."""
    count = int(source.numbers.integers(recipe.labels[0], recipe.labels[1] + 1))
    amplitudes = _amplitudes(recipe, source)
    labels = largest(pyramid_noise(count, shape, amplitudes, source))
    if not source.chance(recipe.foreground):
        return labels, count, False
    # A body: an ellipsoid with a rough surface, thin layers (skin, cortex) along it, and black outside.
    distance = torch.zeros((1, 1, *shape), device=source.device)
    for axis, size in enumerate(shape):
        centre, radius = size * source.within((0.42, 0.58)), size * source.within((0.34, 0.55))
        line = (torch.arange(size, device=source.device) - centre) / radius
        view = [1] * (len(shape) + 2)
        view[2 + axis] = size
        distance = distance + line.square().reshape(view)
    rough = pyramid_noise(1, shape, _amplitudes(recipe, source), source)
    distance = distance.sqrt() + source.within((0.03, 0.14)) * rough / rough.std()
    edges = [1.0]
    while len(edges) <= RIM_LABELS and not source.chance(0.3):
        edges.append(edges[-1] - source.within((0.03, 0.15)))
    labels = labels + 1 + RIM_LABELS
    # From the inside out, so that what is outside the body ends as 0.
    for rim, edge in reversed(list(enumerate(edges))):
        labels = torch.where(distance > edge, rim, labels)
    return labels, count + 1 + RIM_LABELS, True


def _amplitudes(recipe: ShapeRecipe, source: Source) -> dict[int, float]:
    coarsest = recipe.coarsest
    while coarsest > 4 and source.chance(0.4):
        coarsest //= 2
    power = source.within(recipe.roughness)
    spacings = [2**n for n in range(1, coarsest.bit_length())]
    return {s: float(s) ** power for s in spacings}


def two_warps(recipe: ShapeRecipe, shape: tuple[int, ...], source: Source) -> tuple[torch.Tensor, ...]:
    """Displacements (1, d, *shape) that draw the fixed and the moving copy from a map, and the truth between them.

    With fixed(x) = map(A exp(v)(x)) and moving(x) = map(exp(w)(x)), fixed(x) = moving(exp(-w) A exp(v)(x)). The
    truth is (1, d, *shape/2) in half-resolution voxels.
    """
    fixed, moving, moving_inverse = half_warps(recipe, shape, source)
    truth = compose(moving_inverse, fixed)
    return doubled(fixed, shape), doubled(moving, shape), truth


def half_warps(recipe: ShapeRecipe, shape: tuple[int, ...], source: Source) -> tuple[torch.Tensor, ...]:
    """Random displacements of the fixed and of the moving copy, and the inverse of the latter, (1, d, *shape/2) each in
    half-resolution voxels.
    """
    half = tuple(-(-s // 2) for s in shape)
    fixed_velocity, moving_velocity = (random_velocity(recipe, half, source) for _ in range(2))
    fields = torch.cat([fixed_velocity, moving_velocity, -moving_velocity])
    fixed, moving, moving_inverse = integrate(fields, INTEGRATION_STEPS).split(1)
    return then_affine(recipe, fixed, source), moving, moving_inverse


def random_velocity(recipe: ShapeRecipe, half: tuple[int, ...], source: Source) -> torch.Tensor:
    """A velocity (1, d, *half) in half-resolution voxels: several scales, the finer the smaller."""
    finest = int(source.numbers.choice([2, 4, 4, 8]))
    power = source.within((0.5, 1.5))
    amplitudes = {s: float(s) ** power for s in (2, 4, 8, 16) if s >= finest}
    noise = pyramid_noise(len(half), half, amplitudes, source)
    return noise * (0.5 * source.within(recipe.displacement) / float(noise.std()))


def then_affine(recipe: ShapeRecipe, displacement: torch.Tensor, source: Source) -> torch.Tensor:
    """Displacement of x -> A(x + u(x)) for a small random affine about the centre of the grid."""
    d = displacement.shape[1]
    shape = displacement.shape[2:]
    strength = source.within((0.0, 1.0))
    generator = strength * np.deg2rad(recipe.rotation) * source.numbers.uniform(-1, 1, (d, d))
    # Antisymmetric part: rotation; symmetric part: scaling and shear.
    stretch = strength * recipe.scaling * source.numbers.uniform(-1, 1, (d, d))
    affine = (generator - generator.T) + (stretch + stretch.T) / 2
    linear = torch.as_tensor(affine, dtype=torch.float32, device=source.device)
    shift = strength * 0.5 * recipe.translation * source.numbers.uniform(-1, 1, d)
    lines = []
    for axis, size in enumerate(shape):
        view = [1] * (d + 1)
        view[1 + axis] = size
        line = torch.arange(size, dtype=torch.float32, device=source.device) - (size - 1) / 2
        lines.append(line.reshape(view))
    moved = torch.stack([displacement[:, axis] + lines[axis] for axis in range(d)], 1)
    change = torch.einsum("ab,nb...->na...", linear, moved)
    offset = torch.as_tensor(shift, dtype=torch.float32, device=source.device).reshape(1, d, *[1] * d)
    return displacement + change + offset


def doubled(displacement: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The half-resolution displacement at full resolution, in full-resolution voxels."""
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    full = F.interpolate(displacement, scale_factor=2.0, mode=mode)
    box = (slice(None), slice(None), *(slice(0, s) for s in shape))
    return 2.0 * full[box]


def largest(volume: torch.Tensor) -> torch.Tensor:
    """argmax over the channels of (1, C, *S), as (1, 1, *S). Channel by channel: several times faster on a CPU."""
    best = volume[:, :1]
    labels = torch.zeros_like(best, dtype=torch.long)
    for channel in range(1, volume.shape[1]):
        value = volume[:, channel : channel + 1]
        labels = torch.where(value > best, channel, labels)
        best = torch.maximum(best, value)
    return labels


def half_resolution_labels(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Shares (N, count, *S/2) of each label in blocks of 2^d voxels of (N, 1, *S) integers; S even."""
    dims = labels.dim() - 2
    half = [s // 2 for s in labels.shape[2:]]
    shares = torch.zeros((labels.shape[0], count, *half), device=labels.device)
    part = torch.full((1,), 0.5**dims, device=labels.device)
    for corner in itertools.product((0, 1), repeat=dims):
        every_second = (slice(None), slice(None), *(slice(c, None, 2) for c in corner))
        block = labels[every_second]
        shares.scatter_add_(1, block, part.expand(block.shape))
    return shares


def contrasts(recipe: ShapeRecipe, count: int, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean intensities (count,) of the labels in the fixed and in the moving image."""
    fixed = source.uniform(count)
    if source.chance(0.3):
        # A few tissues shared by many structures, as in anatomy.
        tissues = source.uniform(int(source.numbers.integers(2, 6)))
        fixed = tissues[torch.randint(len(tissues), (count,), generator=source.tensors, device=source.device)]
        fixed = fixed + 0.03 * source.normal(count)
    if source.chance(recipe.related):
        return fixed, fixed + source.within((0.0, 0.08)) * source.normal(count)
    return fixed, source.uniform(count)


def finish_image(
    recipe: ShapeRecipe, image: torch.Tensor, outside: torch.Tensor | None, source: Source
) -> torch.Tensor:
    """From mean intensities to an image in [0, 1]: texture, and what `degraded` adds."""
    texture = pyramid_noise(1, tuple(image.shape[2:]), {1: 1.0, 2: 1.0}, source)
    return degraded(recipe, image + source.within((0.0, 0.06)) * texture, outside, recipe.blur, source)


def degraded(
    recipe: ShapeRecipe, image: torch.Tensor, outside: torch.Tensor | None, blur: tuple[float, float], source: Source
) -> torch.Tensor:
    """An image (1, 1, *S) with blur, bias field and noise, black outside, in [0, 1], with another gamma."""
    shape = tuple(image.shape[2:])
    image = gaussian_smooth(image, (source.within(blur),) * len(shape))
    bias = pyramid_noise(1, shape, {16: 1.0, 32: 2.0}, source)
    image = image.clamp_min(0) * torch.exp(source.within((0.0, recipe.bias)) * bias / 2.0)
    image = image + source.within(recipe.noise) * source.normal(*image.shape)
    if outside is not None:
        image = torch.where(outside, 0.0, image)
    low, high = source.within((0.0, 1.0)), source.within((98.5, 100.0))
    image = robust_range(image, low, high)
    return image ** float(np.exp(recipe.gamma * source.numbers.normal()))


def robust_range(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Percentiles `low` and `high` to 0 and 1, clipped."""
    # Every third voxel is enough for a percentile and a third of the sorting.
    values = image.flatten()[::3].sort().values
    ends = [values[round((len(values) - 1) * p / 100.0)] for p in (low, high)]
    return ((image - ends[0]) / (ends[1] - ends[0]).clamp_min(1e-6)).clamp(0, 1)
