"""Explore representations in a browser (optional extra ``app``)."""
