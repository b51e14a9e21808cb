"""Side-by-side figures: ours beside the bare client, in one run, on one machine. `python -m benchmarks --help`."""
