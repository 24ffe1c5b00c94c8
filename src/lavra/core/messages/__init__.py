"""What a person reads on the terminal, in the language of their locale."""
