"""Why it goes wrong here: what can be done, found out by trying, and what forbids the rest."""
