"""The signature and the batch: typed columns to arrays and back, inference from data, validation."""
