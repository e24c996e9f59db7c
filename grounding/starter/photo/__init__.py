"""A small vision-language model for photographs: a frozen ImageNet backbone, and a language model trained on captions."""
