"""How the bundled demo model is built, from committed inputs to the weights of `reranker/model/demo_model/`.

Read in this order: `tokenizer` (how text becomes words), `idf` (how much each word counts), `layout` (what each
residual dimension means), `embeddings`, `layers` (which head does what), `checkpoint` (how it becomes files).
`corpus` and `text_sources` feed the tokenizer and the document frequencies; `fitting` sets the scale of the scores;
`scorer` and `trace` run the finished model; `evaluation` compares it with BM25.
"""
