"""Where progress, leases and the journal live."""
