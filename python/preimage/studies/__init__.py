"""Questions put to an inverter, each answered by a table, a plot, pictures, and one page of them."""
