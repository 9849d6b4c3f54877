"""Displacement fields: positions in RAS mm to positions, their inverse, determinants and files."""
