"""The results that docs/results.md shows: what is run, how it is run, and the page made of it."""
