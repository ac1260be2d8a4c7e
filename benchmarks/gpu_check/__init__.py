"""Build, verify and measure the package on a machine with a GPU, within minutes."""
