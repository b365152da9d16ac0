"""programs - each stage as a program of its own, with the options of the C programs."""
