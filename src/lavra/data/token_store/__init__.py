"""The token store: a corpus as one array of token ids on disk, prepared once and read by memory map."""
