"""Readers of bodies that codecs share: bounds, strict JSON, typed rows, matrices and Arrow messages."""
