"""Sub-commands of the library, registered as entry points in pyproject.toml."""

from __future__ import annotations

from grounding.command import Command

DOCTOR = Command(
    "check recorded attention against eager attention, on the installed versions",
    "grounding.commands.doctor:DoctorCommand",
    group="Look at your installation",
)
MODELS = Command(
    "list the families of models, and what tests verify of each",
    "grounding.commands.models:ModelsCommand",
    group="Look at your installation",
)
SCENES = Command(
    "draw scenes of shapes with exact masks and referring expressions",
    "grounding.commands.scenes:ScenesCommand",
    group="Measure",
)
CALIBRATE_GAINS = Command(
    "fit a gain for every head on true descriptions, and write a steering file",
    "grounding.commands.gains:CalibrateGainsCommand",
    group="Calibrate",
)
CALIBRATE_HEADS = Command(
    "rank the heads that localise objects, for method files",
    "grounding.commands.heads:CalibrateHeadsCommand",
    group="Calibrate",
)
CALIBRATE_SENSITIVITY = Command(
    "measure how much each head depends on the image, for steering files",
    "grounding.commands.sensitivity:CalibrateSensitivityCommand",
    group="Calibrate",
)
