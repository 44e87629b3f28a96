"""How the pytest plugin runs a test in a namespace: what is asked for, and the two processes."""
