"""Run the clients people have against the service: right order, same scores, errors they understand, 429 honoured.

python -m tests.clients            each in an environment of its own, against services it starts; some ten minutes
python -m tests.clients --only sdks litellm_providers

What each client sends and needs was measured before; this checks that the service keeps to it. The clients themselves
are run unchanged (`programs/`, pinned in `requirements/`): Python's, npm's where there is a `node`, and Java's own
where there is a JDK.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from reranker.model.checkpoint import DEMO_MODEL
from tests.clients.programs._report import DOCUMENTS, QUERY
from tests.integration.conftest import configuration, started

FOLDER = Path(__file__).parent
TOLERANCE = 1e-4
KEY, LIMITED_KEY = "key-of-the-clients", "key-of-the-limited"
KEYS = f"clients: {KEY}\nlimited: {{key: {LIMITED_KEY}, tokens_per_minute: 6000}}\n"
SPREADS_SCORES = "dify"
NEEDED = {"npm": ("node", "npm"), "java": ("java", "javac")}
"""Programs that a set needs; where they are not here it is left out."""
KEYLESS = "llama-index xinference-rerank"
"""It has no setting for a key."""
BAD_KEY = {  # what a wrong key is to the client's user, by how its name begins; for the others: any error
    "cohere": "UnauthorizedError",
    "langchain Cohere": "UnauthorizedError",
    "langchain VoyageAI": "AuthenticationError",
    "haystack CohereRanker": "UnauthorizedError",
    "litellm": "AuthenticationError",
    "voyageai": "AuthenticationError",
    "llama-index voyageai": "AuthenticationError",
    "mixedbread": "AuthenticationError",
    "zeroentropy": "AuthenticationError",
    "pinecone": "UnauthorizedError",
    "npm cohere-ai": "UnauthorizedError",
    "npm @langchain": "UnauthorizedError",
    "npm @mixedbread": "AuthenticationError",
    "npm zeroentropy": "AuthenticationError",
    "npm @pinecone": "PineconeAuthorizationError",
    "java": "401",
}
WAITS = (
    *("cohere", "langchain Cohere", "haystack Cohere", "llama-index cohere"),
    *("mixedbread", "pinecone", "zeroentropy"),
    *("npm cohere-ai", "npm voyageai", "npm @langchain/cohere", "npm @mixedbread", "npm zeroentropy", "npm ai"),
)
"""Those that come back when `Retry-After` says."""
TRIES_BLINDLY = "haystack HuggingFaceTEI"
"""Comes back three times within three seconds; whether that is late enough is luck."""
RATE_LIMIT = {
    "litellm": "RateLimitError",
    "voyageai": "RateLimitError",
    "java": "429",
    "langchain VoyageAI": "RateLimitError",
    "llama-index voyageai": "RateLimitError",
}


def main() -> int:
    """Run what is asked for.

    Returns:
        Exit status: 1 when any client had a problem.
    """
    names = [*sorted(path.stem for path in (FOLDER / "requirements").iterdir()), "java"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these sets of clients")
    parser.add_argument(
        "--venvs", type=Path, default=Path("build/clients"), help="where environments are (%(default)s)"
    )
    parsed = parser.parse_args()
    for name, needed in NEEDED.items():
        if name in parsed.only and not all(map(shutil.which, needed)):
            print(f"{name}: left out, as there is no {' or no '.join(needed)}")
            parsed.only = [one for one in parsed.only if one != name]
    for name in parsed.only:
        _install(parsed.venvs / name, name)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        open_folder, keyed_folder = Path(folder) / "open", Path(folder) / "keyed"
        open_folder.mkdir()
        keyed_folder.mkdir()
        keys = keyed_folder / "keys.yaml"
        keys.write_text(KEYS)
        with started(configuration(), open_folder) as service:
            reference = _reference(service.url)
            problems += _vllm_bench(service.url)
            for name in parsed.only:
                found = _run(parsed.venvs / name, name, {"url": service.url, "cases": {"open": "any-key"}})
                for client, cases in found.items():
                    problems += _judge(client, cases, reference)
        with started(configuration(args={"access": {"keys_file": str(keys)}}), keyed_folder, KEY) as service:
            cases = {"key": KEY, "bad key": "wrong", "limited": LIMITED_KEY}
            for name in parsed.only:
                for client, found_cases in _run(
                    parsed.venvs / name, name, {"url": service.url, "cases": cases}
                ).items():
                    problems += _judge(client, found_cases, reference)
    print(f"\n{len(problems)} problems", *problems, sep="\n  ")
    return 1 if problems else 0


def _install(folder: Path, name: str) -> None:
    if name == "java":
        return
    if name == "npm":
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(FOLDER / "requirements" / "npm.json", folder / "package.json")
        shutil.copy(FOLDER / "programs" / "npm.mjs", folder)  # it finds what is installed beside it
        subprocess.run(["npm", "install", "--ignore-scripts", "--silent"], cwd=folder, check=True)
        return
    uv, requirements = Path(sys.executable).parent / "uv", FOLDER / "requirements" / f"{name}.txt"
    if not folder.is_dir():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", folder, "-r", requirements], check=True)


def _run(venv: Path, name: str, job: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    """Run the clients of one environment."""
    asked = {"query": QUERY, "documents": DOCUMENTS}
    programs = FOLDER / "programs"
    command = {
        "npm": [shutil.which("node"), str(venv / "npm.mjs")],
        "java": [shutil.which("java"), str(programs / "java.java"), job["url"], json.dumps(asked)],
    }.get(name, [str(venv / "bin" / "python"), str(programs / f"{name}.py")])
    if name == "java":
        command += [word for case in job["cases"].items() for word in case]
    clean = {"PATH": "/usr/bin", "HOME": str(venv)}  # no key and no proxy of the caller's
    result = subprocess.run(
        [one for one in command if one],
        input=json.dumps(job | asked),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=clean,
    )
    if result.returncode:
        return {f"the programs of {name}": {"start": {"error": "did not run", "said": result.stderr[-500:]}}}
    findings: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return findings


def _vllm_bench(url: str) -> Iterator[str]:
    """Run vLLM's own load generator, which is in this environment; it counts an answer it cannot read as failed."""
    command = [
        sys.executable, str(FOLDER / "programs" / "vllm_bench.py"), "--backend", "vllm-rerank", "--base-url", url,
        "--endpoint", "/v1/rerank", "--model", "any", "--tokenizer", str(DEMO_MODEL), "--dataset-name", "random-rerank",
        "--random-input-len", "64", "--random-batch-size", "8", "--num-prompts", "16", "--save-result",
        "--result-filename", "result.json",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
        file = Path(folder) / "result.json"
        found = json.loads(file.read_text()) if file.is_file() else {}
    counted = found.get("completed", 0), found.get("total_input_tokens", 0)
    good = counted[0] > 0 and counted[1] > 0 and not found.get("failed")
    print(f"{'ok' if good else 'PROBLEM':8}vllm bench serve: {counted[0]} answers, {counted[1]} tokens", flush=True)
    if not good:
        yield f"vllm bench serve: {found or result.stderr[-500:]}"


def _reference(url: str) -> list[tuple[int, float]]:
    answer = httpx.post(f"{url}/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
    return [(one["index"], one["relevance_score"]) for one in answer["results"]]


def _judge(client: str, cases: dict[str, Any], reference: list[tuple[int, float]]) -> Iterator[str]:
    """Print what a client found, and say what is wrong with it."""
    for case, finding in cases.items():
        problem = _problem(client, case, finding, reference)
        shown = f"{finding['error']}: {finding['said'][:90]!r}" if "error" in finding else finding["ranking"]
        print(
            f"{'PROBLEM' if problem else 'ok':8}{client:45}{case:9}{finding.get('took_s', 0):6.2f} s  {shown}",
            flush=True,
        )
        if problem:
            yield f"{client}, {case}: {problem}"


def _problem(client: str, case: str, finding: dict[str, Any], reference: list[tuple[int, float]]) -> str | None:
    refused = case == "bad key" or (case in ("key", "limited") and client == KEYLESS)
    if case == "limited" and client.startswith(TRIES_BLINDLY):
        refused = "error" in finding
    elif case == "limited" and not client.startswith(WAITS):
        refused = True
    if not refused:
        if "error" in finding:
            return f"{finding['error']}: {finding['said']}"
        if case == "limited" and finding["took_s"] < 1:
            return "it was not held up"
        return _difference(client, finding["ranking"], reference)
    if "error" not in finding:
        return "no error reached its user"
    expected = BAD_KEY if case == "bad key" else RATE_LIMIT
    kind = next((kind for start, kind in expected.items() if client.startswith(start)), finding["error"])
    return None if finding["error"] == kind else f"{finding['error']} instead of {kind}: {finding['said']}"


def _difference(client: str, ranking: list[list[float]], reference: list[tuple[int, float]]) -> str | None:
    if not ranking or [index for index, _ in ranking] != [index for index, _ in reference[: len(ranking)]]:
        return f"another order: {ranking}"
    scores = [score for _, score in reference]
    if client.startswith(SPREADS_SCORES):
        scores = [(score - min(scores)) / (max(scores) - min(scores)) for score in scores]
    worst = max(abs(one - other) for (_, one), other in zip(ranking, scores, strict=False))
    return None if worst <= TOLERANCE else f"scores differ by {worst:.6f}"


if __name__ == "__main__":
    sys.exit(main())
