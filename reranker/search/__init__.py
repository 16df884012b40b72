"""From files to candidates: reading documents, the index on disk, and the first stages that search it.

`sources` reads files, `chunking` cuts them, `building` makes an index in a `folder`; `opened` is one that is served,
and `bm25`, `dense`, `hybrid` and `milvus` search, each behind the protocol in `base`.
"""
