"""The ground floor: errors, references, ids, clocks, backoff, files, frames, slab. Standard library only; knows no models."""
