"""Instance optimisation: a displacement field improved, or found from nothing, for the pair at hand."""
