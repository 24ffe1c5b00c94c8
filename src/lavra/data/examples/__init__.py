"""Examples: rows with a prompt, which is only read, and a completion, which is learned; and chats."""
