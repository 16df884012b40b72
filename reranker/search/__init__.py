"""From files to candidates: documents, the index on disk, and the first stages that search it.

`sources` reads files, `text` splits them, `build` makes an `index`, `first_stages` search it, `filters` say in what.
"""
