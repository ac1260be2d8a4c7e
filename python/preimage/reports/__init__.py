"""Reports about inverters, training runs and feature stores, each a single page."""
