"""simulate - a whole system of two KMEs and three SAEs, one run per seed, every rule checked."""
