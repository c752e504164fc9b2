"""Reports of a results file: a table, and a part of the documentation."""
