"""Traces in, plain numbers out: metrics, diagnoses, timelines, probes, collapse."""
