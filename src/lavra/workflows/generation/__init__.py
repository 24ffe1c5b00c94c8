"""Using a model: generating, scoring, explaining, chatting, self-asking."""
