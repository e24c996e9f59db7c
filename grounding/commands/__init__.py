"""The library's own commands, found through the entry points in pyproject.toml."""

from __future__ import annotations

from grounding.command import Command

DOCTOR = Command(
    "check that recorded attention is right on the installed versions, or for one model",
    "grounding.commands.doctor:DoctorCommand",
)
SCENES = Command(
    "draw scenes of shapes with exact masks and referring expressions",
    "grounding.commands.scenes:ScenesCommand",
)
CALIBRATE_GAINS = Command(
    "fit a gain for every head of a model on true descriptions, and write them as a steering file",
    "grounding.commands.gains:CalibrateGainsCommand",
)
CALIBRATE_SENSITIVITY = Command(
    "measure how much each head of a model sees, for steering files that choose heads by it",
    "grounding.commands.calibrate:CalibrateSensitivityCommand",
)
