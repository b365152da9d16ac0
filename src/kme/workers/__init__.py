"""workers - processes of one KME on one host: which runs the loops, and what it tells the rest."""
