"""Exposure parameters of one film, drawn from the ranges of a site."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from adapters.simulator.sites import Marker, Range, Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Exposure parameters of one film. Lengths in cm; strengths as defined by `sites.Site`."""

    view: str = "PA"  # "PA" or "AP" (portable)
    degrees: float = 0.0  # rotation in the image plane
    right: float = 0.0  # offset from the centre
    down: float = 0.0
    zoom: float = 1.0
    scatter: float = 0.12
    noise: float = 0.010
    blur: float = 0.04
    edge_strength: float = 0.55
    edge_scale: float = 0.9
    curve: str = "gamma"
    contrast: float = 0.9
    black: float = 1.0
    white: float = 1.02
    shutters: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # left, right, top, bottom
    border: str = "black"
    grid_lines: float = 0.0
    cut_off: float = 0.0
    marker: Marker | None = None
    devices: tuple[str, ...] = ()  # of `devices.DEVICES`


def draw_exposure(rng: np.random.Generator, view: str, site: Site, findings: Collection[str] = ()) -> Exposure:
    """Draw exposure parameters: portable AP films are more rotated, nearer to the tube, noisier and foggier."""
    portable = view == "AP"

    def within(limits: Range) -> float:
        return float(rng.uniform(*limits))

    collimated = rng.random() < site.collimation_share
    return Exposure(
        view=view,
        degrees=float(rng.normal(0, 2.2 if portable else 1.0)),
        right=float(rng.normal(0, 0.9 if portable else 0.4)),
        down=float(rng.normal(0.2, 0.8)),
        zoom=within(site.portable_zoom if portable else site.zoom),
        scatter=within(site.portable_scatter if portable else site.scatter),
        noise=within(site.portable_noise if portable else site.noise),
        blur=within(site.blur),
        edge_strength=within(site.edge_strength),
        edge_scale=within(site.edge_scale),
        curve=site.curve,
        contrast=within(site.contrast),
        black=within(site.black),
        white=within(site.white),
        shutters=_draw_shutters(rng, site) if collimated else (0.0, 0.0, 0.0, 0.0),
        border=site.border,
        grid_lines=within(site.grid_lines),
        cut_off=within(site.cut_off) * float(rng.choice([-1, 1])),
        marker=site.marker if rng.random() < site.marker_share else None,
        devices=_draw_devices(rng, portable, site, findings),
    )


def _draw_shutters(rng: np.random.Generator, site: Site) -> tuple[float, float, float, float]:
    left, right, top, bottom = rng.uniform(*site.shutter, 4) * (rng.random(4) < 0.7)
    return float(left), float(right), float(top), float(bottom)


def _draw_devices(rng: np.random.Generator, portable: bool, site: Site, findings: Collection[str]) -> tuple[str, ...]:
    """Draw the devices of a patient. Tubes accompany lines; pacemakers and ports are independent of them."""
    odds = {
        "leads": site.lead_share if portable else 0.02,
        "central line": site.line_share if portable else 0.03,
        "endotracheal tube": 0.45 * site.line_share if portable else 0.0,
        "gastric tube": 0.5 * site.line_share if portable else 0.0,
        "pacemaker": 0.06 if "Cardiomegaly" in findings else 0.02,
        "port": 0.05 if {"Mass", "Nodule"} & set(findings) else 0.015,
        "chest drain": site.drain_share if "Pneumothorax" in findings else 0.04 * site.line_share,
    }
    return tuple(
        name for name, (odd, draw) in zip(odds, zip(odds.values(), rng.random(len(odds)), strict=True), strict=True) if draw < odd
    )
