"""Drawings of features, sheets of images, plots and HTML."""
