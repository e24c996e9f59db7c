"""A small diffusion transformer for drawn scenes: FLUX's classes, trained to denoise pictures with their captions."""
