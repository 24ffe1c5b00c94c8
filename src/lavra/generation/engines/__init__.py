"""Engines that compute the texts: PyTorch offers every option, and CTranslate2 is faster on a CPU for common ones."""
