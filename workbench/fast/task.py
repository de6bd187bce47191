"""What a network is to learn: the losses of what it makes of pictures, and their gradient."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.fast.keyframes import KeyFrame, draw_keyframe, keyframe_loss
from workbench.fast.network import SOURCE, TransformationNetwork
from workbench.fast.pictures import Batch, Pictures, draw_batch
from workbench.images import from_array, resize_down
from workbench.losses import Losses, Targets, temporal_loss, to_losses, weighted_losses
from workbench.problem import Problem
from workbench.settings import Settings, TrainingSettings
from workbench.video.flow import Motion, warp

_KEYFRAME = 2  # beside the seed of a step, that of the keyframe it looks at
_EVERY = 8  # one step in so many is for a strength below the full one
STRENGTH_POWER = 4  # of a strength: its share of the style's weight


class Task:
    """Pictures, targets and weights: what a network is to learn, and how it is judged."""

    def __init__(
        self,
        styles: Sequence[Tensor],
        pictures: Pictures,
        preview: Tensor | None,
        settings: Settings,
        training: TrainingSettings,
        keyframes: Sequence[KeyFrame] = (),
        names: Sequence[str] = (),
    ) -> None:
        numbers = pictures.held_out()
        held_out = [from_array(pictures.kept(number)) for number in numbers]
        self.problem = Problem.of(held_out[0], styles, settings)
        self.pictures, self.settings, self.training = pictures, settings, training
        self.keyframes = keyframes
        self.drawn = [number for number in range(len(pictures)) if number not in numbers]
        self.held_out = [picture.to(self.problem.device) for picture in held_out]
        shown = held_out[0] if preview is None else resize_down(preview, settings.size)
        self.preview = shown.to(self.problem.device)
        longest = round(fmean(max(picture.shape[-2:]) for picture in held_out))
        if training.many:
            if len(styles) < 2 or settings.style_blend_weights or keyframes:
                raise InputError(
                    "many = True: the model learns each style picture on its own; give two or more"
                    " of them, and neither style_blend_weights nor keyframes."
                )
            self.styles = self.problem.style_statistics(longest)
        else:
            self.styles = [self.problem.style_targets(longest)]
        self.sets = _sets(names or [f"style {i + 1}" for i in range(len(styles))], training)

    def draw(self, step: int) -> Batch:
        """Batch that the step after `step` others looks at."""
        seed = (self.settings.seed, step)
        batch = draw_batch(
            self.pictures,
            self.drawn,
            self.training.batch,
            seed,
            whole=step >= self.training.whole_after,
            pairs=self.training.temporal_weight > 0,
        )
        if self.keyframes:
            pair = draw_keyframe(self.keyframes, self.training.crop, (*seed, _KEYFRAME))
            batch = replace(batch, keyframe=pair)
        return batch

    def strength(self, step: int) -> float:
        """How strong the style is at the step after `step` others: mostly in full."""
        if not self.training.strengths or step < self.training.copy_steps:
            return 1.0
        return min(1.0, _EVERY * np.random.default_rng((self.settings.seed, step, 1)).random())

    def backward(self, network: TransformationNetwork, step: int, batch: Batch) -> Losses | None:
        """Leave the gradient of a batch's losses with the network that has taken `step` steps.

        Returns the losses; None while the network learns to copy.
        """
        pictures = batch.pictures.to(self.problem.device)
        number, strength = step % len(self.styles), self.strength(step)
        mix, copies = network.mix(strength, network.alone(number)), step < self.training.copy_steps
        if copies:  # which all sets are to know when they part
            mix = torch.full_like(mix, 1 / len(mix))
        painted = network(pictures, self.problem.network.dtype, mix)
        network.zero_grad()
        if copies:
            (painted - pictures).square().mean().backward()
            return None
        # As in `optimize`, what will be saved is what is looked at.
        painted = painted + (painted.clamp(0, 1) - painted).detach()
        # What makes half the difference to the eye is a small part of the weight.
        style_weight = self.settings.style_weight * strength**STRENGTH_POWER
        settings = replace(self.settings, style_weight=style_weight)
        if settings.tv_kind != "mean-squared":
            # It is a sum over pixels, and that of a crop stands for that of a whole picture.
            pixels = round(fmean(picture[0, 0].numel() for picture in self.held_out))
            tv_weight = settings.tv_weight * pixels / pictures[0, 0].numel()
            settings = replace(settings, tv_weight=tv_weight)
        count = len(pictures) - len(batch.motions)
        own, *companions = painted.split(count)
        terms = self._losses(own, pictures[:count], number, settings)
        if companions:
            change = self._change(own, companions[0], batch.motions)
            terms["temporal"] = self.training.temporal_weight * change
        if batch.keyframe:
            both = batch.keyframe.source, batch.keyframe.painted
            source, wanted = (each.to(self.problem.device) for each in both)
            made = network(source, self.problem.network.dtype)
            distance = keyframe_loss(self.problem.network, made, wanted, settings)
            terms["keyframe"] = self.training.keyframe_weight * distance
        more = self.content_lead(step) - 1
        leading = _total(terms, ("content", "keyframe"))
        (_total(terms) + more * leading).backward()
        return to_losses(terms)

    def content_lead(self, step: int) -> float:
        """Factor of what leads, the content and keyframes; it shrinks to 1, gradually."""
        left = self.training.copy_steps + self.training.lead_steps - step
        return float(self._first_lead ** (left / self.training.lead_steps)) if left > 0 else 1.0

    @cached_property
    def _first_lead(self) -> float:
        """Factor with which a picture without content costs as much as one without style.

        Otherwise the style wipes out all that can be recognised within some steps, which
        hardly comes back.
        """
        style, content = 0.0, 0.0
        with torch.no_grad():
            for number, picture in itertools.product(range(len(self.styles)), self.held_out):
                nothing = picture.mean(dim=(2, 3), keepdim=True).expand_as(picture)
                as_it_is = self._losses(picture, picture, number, self.settings)
                empty = self._losses(nothing, picture, number, self.settings)
                style += _total(as_it_is, "style").item()
                content += _total(empty, "content").item()
        return max(1.0, style / content) if content else 1.0

    def _change(self, painted: Tensor, moved: Tensor, motions: Sequence[Motion]) -> Tensor:
        """By how much painted pictures differ from their companions, beyond the motion."""
        white = self.settings.white
        changes = []
        for one, two, motion in zip(painted.split(1), moved.split(1), motions, strict=True):
            # Bilinear, as Apple's GPU has no gradient of the other.
            expected = warp(one, motion.flow.to(one.device), mode="bilinear")
            visible = motion.visible.to(one.device)
            changes.append(temporal_loss(two * white, expected * white, visible))
        return torch.stack(changes).mean()

    @torch.no_grad()
    def evaluate(self, network: TransformationNetwork) -> tuple[dict[str, float], Tensor]:
        """Mean losses by kind over the held-out pictures, and the preview as painted.

        At full strength; in each of many styles, the previews side by side.
        """

        def paint(picture: Tensor, number: int) -> Tensor:
            mix = network.mix(1.0, network.alone(number))
            painted: Tensor = network(picture, self.problem.network.dtype, mix)
            return painted.clamp(0, 1)

        numbers = range(len(self.styles))
        losses = [
            to_losses(self._losses(paint(each, i), each, i, self.settings)).by_kind()
            for i, each in itertools.product(numbers, self.held_out)
        ]
        previews = [paint(self.preview, number).cpu() for number in numbers]
        return means(losses), torch.cat(previews, dim=3)

    def _losses(
        self, painted: Tensor, pictures: Tensor, number: int, settings: Settings
    ) -> dict[str, Tensor]:
        """Means over pictures `(N, 3, H, W)` of the terms of their weighted losses."""
        network = self.problem.network
        seen = _each(network(painted * settings.white, settings.layers))
        with torch.no_grad():
            content = _each(network(pictures * settings.white, settings.content_layers))
        each = [
            weighted_losses(
                picture * settings.white, own, Targets(target, self.styles[number]), settings
            )[1]
            for picture, own, target in zip(painted.split(1), seen, content, strict=True)
        ]
        return {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}


def _sets(names: Sequence[str], training: TrainingSettings) -> tuple[str, ...]:
    """Names of the scales and shifts that there are to learn, from those of the style pictures."""
    styles = [Path(name.rpartition(":")[2]).stem for name in names]
    if not training.many:
        styles = [" + ".join(styles)]
    known = [SOURCE, *styles]
    styles = [
        f"{name} {number}" if known.count(name) > 1 else name
        for number, name in enumerate(styles, start=1)
    ]
    return (SOURCE, *styles) if training.strengths else tuple(styles)


def _total(terms: Mapping[str, Tensor], kinds: str | tuple[str, ...] = "") -> Tensor:
    """Sum of the terms of some kinds, or of all."""
    return torch.stack([term for name, term in terms.items() if name.startswith(kinds)]).sum()


def _each(activations: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Activations of each picture of a batch on its own."""
    # (On the way back, each of as many slices would fill a whole gradient with zeros.)
    pieces = {layer: activation.split(1) for layer, activation in activations.items()}
    count = len(next(iter(pieces.values())))
    return [{layer: piece[i] for layer, piece in pieces.items()} for i in range(count)]


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each column; nothing of no rows."""
    return {name: fmean(row[name] for row in rows) for name in rows[0]} if rows else {}
