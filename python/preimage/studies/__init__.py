"""Studies of inverters: each writes a table, a plot, a sheet of images, and a page."""
