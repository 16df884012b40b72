"""Over HTTP, by the served demo model, the relevant document comes first. A lexical model: see its card."""

import pytest

from tests.integration.conftest import Service

CASES: dict[str, tuple[str, list[str]]] = {  # the first document of each is the relevant one
    "what is RAG": (
        "什么是RAG",
        [
            "RAG（Retrieval-Augmented Generation）是一种结合了检索和生成的人工智能技术。",
            "BM25是一种基于词袋模型的传统信息检索算法。",
            "Qwen是阿里巴巴开发的大型语言模型系列。",
        ],
    ),
    "image denoising patent": (
        "一种基于深度学习的图像去噪方法",
        [
            "本发明公开了一种图像去噪方法，利用U-Net卷积神经网络对含噪图像进行编码和解码，输出去除噪声后的清晰图像。",
            "本发明提供了一种锂离子电池的正极材料及其制备方法，可提高电池的循环寿命。",
            "本实用新型涉及一种可折叠自行车的车架结构，便于携带和存放。",
            "一种基于深度学习的语音识别方法，将音频信号转换为文本序列。",
        ],
    ),
    "capital of China": (
        "What is the capital of China?",
        [
            "The capital of China is Beijing.",
            "Gravity is a force that attracts two bodies towards each other.",
            "Photosynthesis turns light into chemical energy.",
            "Mount Everest is the highest mountain on Earth.",
            "The Great Wall was built over many centuries.",
        ],
    ),
    "symptoms of anaemia": (
        "What are the symptoms of iron deficiency anemia?",
        [
            "Symptoms of iron deficiency anemia include fatigue, pale skin, shortness of breath and brittle nails.",
            "Type 2 diabetes is treated with diet, exercise and, when needed, metformin.",
            "A fracture is usually confirmed by an X-ray of the injured bone.",
            "Iron is smelted from ore in a blast furnace.",
            "Vaccines train the immune system to recognise a pathogen.",
            "High blood pressure often has no warning signs for years.",
        ],
    ),
    "large CSV in Python": (
        "How do I read a large CSV file in Python without running out of memory?",
        [
            "Pass chunksize to pandas.read_csv to read a large CSV file in pieces, never all of it in memory.",
            "Python was created by Guido van Rossum and first released in 1991.",
            "matplotlib draws line charts, bar charts and histograms.",
            "To bake a pizza, heat the oven as hot as it goes and preheat the stone.",
            "Git keeps the history of every file in a repository.",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("turned", [False, True], ids=["relevant first in", "relevant last in"])
def test_relevant_document_comes_first(service: Service, name: str, turned: bool) -> None:
    query, documents = CASES[name]
    relevant = documents[0]
    sent = documents[::-1] if turned else documents
    results = service.rerank(query, sent, return_documents=True)["results"]
    assert results[0]["document"]["text"] == relevant
    assert results[0]["relevance_score"] > results[1]["relevance_score"]


def test_the_sentence_that_answers_is_the_first_span(service: Service) -> None:
    """Scored by the engine as a document is: as a document of its own it has the same score."""
    answer = "The capital of China is Beijing."
    others = [text for name in ("symptoms of anaemia", "large CSV in Python") for text in CASES[name][1][1:]]
    document = "  ".join([*others[:4], answer, *others[4:]])
    sent = {"relevant_spans": {"mode": "enabled", "threshold": 0.0}, "return_documents": "evidence", "timings": True}
    body = service.rerank("What is the capital of China?", [document, others[0]], top_n=1, **sent)
    [result] = body["results"]
    best = result["relevant_spans"][0]
    span = document[best["start"] : best["end"]]  # with a neighbour, if together they score higher
    assert answer in span
    assert len(span) < len(document) / 2
    [alone] = service.rerank("What is the capital of China?", [span])["results"]
    assert best["score"] == pytest.approx(alone["relevance_score"], abs=1e-3)
    assert answer in result["document"]["text"]
    assert body["timings"]["stages_ms"]["evidence"] > 0
    assert "spans_unscored" not in body
