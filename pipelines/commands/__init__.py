"""The pipelines' commands, for the entry-point group `grounding.commands`."""

from __future__ import annotations

from grounding.command import Command

DESCRIBE = Command(
    "describe images, steered and not, and flag the nouns that nothing in the image speaks for",
    "pipelines.commands.describe:DescribeCommand",
)
SEGMENT = Command(
    "find what words mean in images and cut it out, for one image, many, or a manifest",
    "pipelines.commands.segment:SegmentCommand",
)
