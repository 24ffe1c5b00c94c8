"""Engines: what computes the texts. PyTorch does everything; CTranslate2 does the usual things on a CPU, faster."""
