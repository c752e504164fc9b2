"""`podidctl access -o html`: the review as one static file with a graph, search, filters, details and tables."""
