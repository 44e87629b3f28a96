"""ID maps: as values, who may write which, and how they are written."""
