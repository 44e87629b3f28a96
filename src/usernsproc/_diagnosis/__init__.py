"""What works on this machine, determined by trying it, and why the rest does not."""
