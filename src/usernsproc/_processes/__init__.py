"""Commands and holders: what is asked for, started and waited for."""
