"""The pipeline: from two images to a field, a warped image, a Jacobian map and a report."""
