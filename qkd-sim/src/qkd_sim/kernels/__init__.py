"""kernels - compiled loops: arrays in, arrays out."""
