"""The linear part: a rigid or affine alignment by mutual information, checked by edges."""
