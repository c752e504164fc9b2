"""What people read of a results file: a table, plots, and README's part."""
