"""Several processes for one daemon: a supervisor without lanes, and its workers."""
