"""Reports of a results file: a table, plots, and a part of the documentation."""
