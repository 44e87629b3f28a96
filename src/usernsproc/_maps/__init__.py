"""Id maps: as values, who may have which, and who writes them."""
