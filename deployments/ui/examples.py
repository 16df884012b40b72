"""Ready examples: a query, an instruction, and candidates in the order that a first stage might give them."""

from __future__ import annotations

from dataclasses import dataclass

WEB = "Given a web search query, retrieve relevant passages that answer the query"
MEDICAL = "Given a medical question, retrieve passages of medical literature that answer it"
PATENT = "Given the description of an invention, retrieve patents that disclose the same technical solution"
CODE = "Given a programming question, retrieve code or documentation that answers it"
RAG = "Given a question, retrieve the passage of the handbook that holds the answer"
PRESETS = (WEB, MEDICAL, PATENT, CODE, RAG)
"""Of these the first four are what `model.instructions` names, too; all are sent as texts."""


@dataclass(frozen=True, slots=True)
class Example:
    """One of them."""

    title: str
    query: str
    documents: tuple[str, ...]
    instruction: str = ""
    """Empty: the service's default."""


EXAMPLES = (
    Example(
        "Medical",
        "What are the first symptoms of iron deficiency anaemia?",
        (
            "Iron is absorbed in the duodenum; vitamin C taken with a meal increases how much of it is absorbed.",
            "Anaemia of chronic disease is treated by treating the disease; iron tablets rarely help.",
            "Steel is an alloy of iron and carbon, and rusts when its surface meets water and air.",
            (
                "The first symptoms of iron deficiency anaemia are tiredness, pale skin and shortness of breath on "
                "exertion; many people also notice brittle nails and headaches."
            ),
            "Symptoms of vitamin D deficiency include bone pain and muscle weakness.",
            "Early symptoms of diabetes are thirst, frequent urination and weight loss.",
            (
                "People with iron deficiency may crave ice or soil. With anaemia that develops slowly there may be "
                "no symptoms at first."
            ),
            "A blood test shows anaemia: haemoglobin is low, and in iron deficiency ferritin is low as well.",
        ),
        MEDICAL,
    ),
    Example(
        "Patents",
        "A battery pack for an electric vehicle in which coolant flows through channels between the cells",
        (
            "A vehicle seat with channels through which air flows to cool the passenger.",
            "A charging station for electric vehicles with a cable that is cooled by a liquid.",
            (
                "A battery pack comprising a plurality of cells and a cooling plate, wherein channels for a coolant "
                "are formed between adjacent cells, so that heat of the cells is carried to a radiator of the "
                "electric vehicle."
            ),
            "A method of estimating the state of charge of the cells of a battery pack from their voltage.",
            "A coffee machine in which water flows through a heated channel.",
            (
                "Battery module for an electric vehicle with a phase change material between the cells that takes "
                "up their heat without any flow of coolant."
            ),
            "A coolant pump whose speed depends on the temperature of the battery pack of the vehicle.",
        ),
        PATENT,
    ),
    Example(
        "RAG",
        "How many days of parental leave can I carry over to the next year?",
        (
            "Annual leave: every employee has 28 days of paid leave a year. Up to five days can be carried over.",
            "Parental leave is announced eight weeks before it begins, in writing, to the personnel office.",
            (
                "Carrying over parental leave: up to 10 days of parental leave that were not taken can be carried "
                "over to the next year; days beyond that expire on 31 March."
            ),
            "Sick leave: a certificate is needed from the third day on.",
            "The next annual report is published in March of the year that follows.",
            "Parents can work part time for as long as a child is younger than eight.",
            "The parking garage is closed on public holidays; please take the bus on these days.",
        ),
        RAG,
    ),
    Example(
        "Code",
        "how to read a file line by line in python without loading it all into memory",
        (
            "def read_all(path): return open(path).read()  # loads the whole file into memory",
            "import csv: the csv module reads and writes tables in Python.",
            (
                "with open(path) as file: for line in file: handle(line)  # iterates line by line, without loading "
                "the file into memory"
            ),
            "File.readlines in Ruby loads all lines of a file into an array.",
            "os.path.getsize(path) returns the size of a file in bytes.",
            "mmap.mmap maps a file into memory; the operating system reads the pages that are touched.",
            "print('line by line')  # prints a line",
        ),
        CODE,
    ),
    Example(
        "中文",
        "糖尿病的早期症状有哪些?",
        (
            "糖尿病患者应控制饮食,少吃甜食。",
            "高血压的早期症状包括头痛和头晕。",
            "北京是中国的首都,有许多名胜古迹。",
            "糖尿病的早期症状有口渴、多尿、体重下降和疲劳。",
            "胰岛素由胰腺分泌,能够降低血糖。",
            "感冒的症状有流鼻涕、咳嗽和发烧。",
            "早期发现糖尿病,可以延缓并发症的发生。",
        ),
        MEDICAL,
    ),
    Example(
        "Across languages",
        "Which treaty ended the war? 哪个条约结束了战争?",
        (
            "The war lasted four years and cost millions of lives.",
            "和平会议在巴黎召开,许多国家的代表参加。",
            "The treaty of Versailles, signed in 1919, ended the war between Germany and the Allied Powers.",
            "1919年签署的凡尔赛条约结束了第一次世界大战。",
            "The Treaty of Rome created the European Economic Community in 1957.",
            "条约的签署仪式在镜厅举行。",
        ),
    ),
)
BY_TITLE = {example.title: example for example in EXAMPLES}
