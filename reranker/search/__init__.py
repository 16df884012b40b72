"""From files to candidates: documents, an index of them on disk, and the first stages that search it."""
