"""What search and the cleaning of data share: analyzers, languages, chunks, term counts, templates, near duplicates."""
