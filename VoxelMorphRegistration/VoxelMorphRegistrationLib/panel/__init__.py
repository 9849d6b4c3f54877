"""The parts of the panel: what lies between the module's file, with its widgets, and the library. Knows Qt and Slicer.

`run` registers nodes in the worker's process, `check` drives the slice views, `results` shows and saves the numbers,
`apply` puts nodes under a transform, `models` lists the networks. Each takes the widgets that it drives.
"""
