"""Points to masks: the SAM family behind one protocol, an image encoded once and asked many times.

`load_segmenter` (load.py) makes a segmenter, `ask` (choice.py) gets one mask out of it.
"""
