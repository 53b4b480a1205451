"""Prediction records: collected from workers within bounds, cleared of private values, written as files."""
