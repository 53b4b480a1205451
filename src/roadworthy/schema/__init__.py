"""The signature and the batch: types, inference from data, validation, and conversion to arrays and back."""
