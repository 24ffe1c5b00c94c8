"""Every option of every command as typed dataclasses, imported without torch."""
