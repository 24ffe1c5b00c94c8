"""The token store: a corpus as one array of token ids on disk, written once and read by memory map."""
