"""epochs - what a QKD entity hands over: files named after stretches of 2^29 ns."""
