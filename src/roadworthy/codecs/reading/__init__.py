"""What codecs share to read bodies: bounds, strict JSON, typed rows, matrices and Arrow messages."""
