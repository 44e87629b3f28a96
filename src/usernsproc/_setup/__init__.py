"""What a process does between clone and exec, as system calls that the parent prepares."""
