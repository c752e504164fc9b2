"""The diagrams of the documentation: D2 renders docs/diagrams/*.d2 as SVG."""
