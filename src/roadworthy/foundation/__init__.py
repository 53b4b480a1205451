"""The ground floor: errors, references, ids, clocks, files, frames, slab. Standard library only; knows nothing of models."""
