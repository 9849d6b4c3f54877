"""VoxelMorph registration: from two images to a displacement field, a warped image and a Jacobian map.

Importing this package is cheap; torch and SimpleITK are imported by the functions that need them.
"""

__version__ = "0.1.0"
