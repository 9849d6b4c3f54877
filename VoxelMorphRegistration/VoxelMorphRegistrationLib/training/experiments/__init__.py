"""The experiments of the VoxelMorph paper (Balakrishnan et al., IEEE TMI 2019) as commands, on any labelled images."""
