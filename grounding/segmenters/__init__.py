"""Point prompts to masks: the SAM family behind one protocol, `set_image` once, then `predict` many times.

`load.load_segmenter` loads a segmenter by name; `mask_selection.predict_mask` predicts one mask.
"""
