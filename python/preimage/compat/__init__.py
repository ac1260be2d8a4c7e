"""Drop-in replacements for functions of other libraries."""
