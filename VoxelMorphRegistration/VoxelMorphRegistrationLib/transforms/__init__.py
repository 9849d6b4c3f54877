"""Transforms of any program: chains of matrices, fields and splines, their files, and what is carried through them.

A room of its own, on `fields` and `alignment` and below `registration`: a chain mixes linear files with fields, and
the registration starts from one.
"""
