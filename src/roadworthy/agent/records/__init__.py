"""Prediction records: taken from workers, kept within bounds, written as files, with private columns left out."""
