"""The pipelines' commands, for the entry-point group `grounding.commands`."""

from __future__ import annotations

from grounding.command import Command

DESCRIBE = Command(
    "describe images, steered or not, and flag nouns with little visual support",
    "pipelines.commands.describe:DescribeCommand",
    group="Use",
)
DISCOVER = Command(
    "list what is in images and segment all of it, without words or categories",
    "pipelines.commands.discover:DiscoverCommand",
    group="Use",
)
LOOK = Command(
    "answer a question about an image, with a map for every word of the answer",
    "pipelines.commands.look:LookCommand",
    group="Use",
)
SEGMENT = Command(
    "segment what a referring expression means, in one image, many, or a manifest",
    "pipelines.commands.segment:SegmentCommand",
    group="Use",
)
