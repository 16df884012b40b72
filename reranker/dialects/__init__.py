"""The wire dialects: request -> domain, ranking -> response, error -> envelope. Translation only.

`choose.py` says which dialect a body is in; each of `rerank.py`, `infinity.py`, `tei.py`, `voyage.py` and `score.py`
is one; what they share is in `options.py` (fields), `texts.py` (documents) and `envelope.py` (errors).
"""
