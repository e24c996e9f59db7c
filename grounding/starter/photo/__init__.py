"""A small vision-language model for photographs: a frozen ImageNet backbone, trained on captions."""
