"""The picture of the dashboard in the documentation: its queries on a real Prometheus, drawn by matplotlib.

Grafana is not installed for it. The picture has the dashboard's panels, places and legends, but not Grafana's looks.
"""
