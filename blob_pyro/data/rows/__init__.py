"""Readers of raw items: JSON lines, CSV, Parquet, data sets of the hub."""
