"""Text in: readers, the split, tokenizers, the token store on disk, packing and the order of training."""
