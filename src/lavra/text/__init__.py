"""Text processing that search and data cleaning share: analyzers, languages, chunks, term counts, prompt templates,
near duplicates."""
