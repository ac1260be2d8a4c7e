"""Feature files of other makers, in and out."""
