"""operator - what a person asks of one KME: SAEs, stock, comparison, clearing, other KMEs."""
