"""A small vision-language model for photographs: a frozen ImageNet backbone and words learned from captions."""
