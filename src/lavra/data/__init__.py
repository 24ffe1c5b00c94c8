"""Data for training: readers, the validation split, tokenizers, the token store, packing and the order of training."""
