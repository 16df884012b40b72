"""Make the score cache that a configuration asks for. Secrets come from files or the environment, and stay here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reranker.cache.key import MAX_SECRET_BYTES
from reranker.cache.memory import MemoryStore
from reranker.cache.redis_client import redis_client
from reranker.cache.redis_store import RedisStore
from reranker.cache.score_cache import ScoreCache
from reranker.config import RerankerConfig
from reranker.errors import ConfigurationError

SECRET_VARIABLE = "RERANKER_CACHE_SECRET"  # noqa: S105 - a name
PASSWORD_VARIABLE = "RERANKER_REDIS_PASSWORD"  # noqa: S105 - a name


def build_cache(config: RerankerConfig, environment: Mapping[str, str]) -> ScoreCache | None:
    """Make the cache.

    Args:
        config: The service's.
        environment: Of this process.

    Returns:
        None: there is to be none.

    Raises:
        ConfigurationError: A file with a secret cannot be read, or the secret is too long.
    """
    cache = config.cache
    enabled = cache.enabled if cache.enabled is not None else config.engine.simulated is None
    if not enabled:
        return None
    secret = (_secret(cache.secret_file, "cache.secret_file", environment.get(SECRET_VARIABLE)) or "").encode()
    if len(secret) > MAX_SECRET_BYTES:
        raise ConfigurationError(f"the cache's secret has {len(secret)} bytes; at most {MAX_SECRET_BYTES} are used")
    memory = MemoryStore(cache.memory_mib * 2**20) if cache.memory_mib else None
    shared = None
    if cache.redis.url is not None:
        password = _secret(cache.redis.password_file, "cache.redis.password_file", environment.get(PASSWORD_VARIABLE))
        shared = RedisStore(redis_client(cache.redis, password), cache.redis, secret)
    return ScoreCache(memory, shared, secret) if memory or shared else None


def _secret(file: Path | None, name: str, otherwise: str | None) -> str | None:
    if file is None:
        return otherwise
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{name} {file}: {reason}") from None
