"""What knows Slicer's scene: nodes read as images, results written as nodes, views that check them."""
