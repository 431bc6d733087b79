"""Pure mathematics of learning: tensors and arrays in, tensors and arrays out."""
