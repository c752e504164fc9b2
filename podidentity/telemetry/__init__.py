"""Telemetry: logs (text or JSON, secrets redacted, repeats bounded), the metrics registry, the probes."""
