"""Metrics: aioprometheus' registry and model, with bound children for hot paths and a page that cannot break."""
