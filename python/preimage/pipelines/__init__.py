"""Run each command of the package: read images or features, compute, and write files atomically."""
