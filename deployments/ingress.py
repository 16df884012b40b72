"""The HTTP front: routes, and the one place where an error becomes a status. Scores nothing itself."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import asdict

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus
from starlette.exceptions import HTTPException

from deployments.fleet import RayFleet
from deployments.recorder import RayRecorder
from reranker import metrics, pipeline
from reranker.admission import Admission
from reranker.checkpoint import find_checkpoint
from reranker.config import RerankerConfig
from reranker.dialects import rerank as dialect
from reranker.errors import NotReadyError, OverloadedError, RequestTooLargeError, RerankerError, StartFailedError
from reranker.prompt import PromptRenderer
from reranker.scatter import Scatter
from reranker.types import Ranking, RankRequest

logger = logging.getLogger(__name__)

api = FastAPI(title="Reranker", description="One query, N documents: each document's relevance score, best first.")
_BODY_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": dialect.RerankBody.model_json_schema()}},
    }
}


@api.exception_handler(HTTPException)
async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    """Give the framework's own errors (404, 405) the same body as ours."""
    what = {404: f"no such path; rerank at POST /v1/rerank, docs at {request.base_url}docs", 405: "wrong method"}
    body = dialect.error_fields(what.get(error.status_code, str(error.detail)), f"http_{error.status_code}")
    return JSONResponse(body, error.status_code, headers=error.headers)


@serve.ingress(api)
class Ingress:
    """Answers HTTP; sends shards to the engine replicas behind `engine`."""

    def __init__(self, config: RerankerConfig, engine: DeploymentHandle) -> None:
        """Load the tokenizer.

        Args:
            config: The service's configuration.
            engine: Handle of the engine deployment.
        """
        checkpoint = find_checkpoint(config.model)
        self._config = config
        self._engine = engine
        self._model = "simulated" if config.engine.simulated else checkpoint.served_name
        self._started_s = int(time.time())
        self._recorder: metrics.Recorder = RayRecorder()
        self._renderer = PromptRenderer.of(checkpoint, config.model)
        self._fleet = RayFleet(engine)
        self._scatter = Scatter(self._fleet, config.scatter)
        self._admission = Admission(config.admission, config.priorities)

    @api.post("/v1/rerank", openapi_extra=_BODY_SCHEMA)
    @api.post("/v2/rerank", include_in_schema=False)
    @api.post("/rerank", include_in_schema=False)
    async def rerank(self, request: Request) -> JSONResponse:
        """Rank documents by their relevance to a query, best first."""
        request_id = request.headers.get("x-request-id", "")[:128] or f"rerank-{uuid.uuid4().hex}"
        try:
            return JSONResponse(await self._rank(request, request_id))
        except RerankerError as error:
            level = logging.INFO if error.status_code < 500 else logging.ERROR
            logger.log(level, "request %s refused: %s", request_id, error.code)
            headers = None
            if isinstance(error, OverloadedError):
                self._recorder.count(metrics.REFUSED_LISTS, 1)
                headers = {"Retry-After": str(error.retry_after_s)}
            return JSONResponse(dialect.error_body(error), error.status_code, headers)
        except Exception:
            logger.exception("request %s failed", request_id)
            return JSONResponse(dialect.error_body(RerankerError("internal error; the service's log has more")), 500)

    async def _rank(self, http: Request, request_id: str) -> dict[str, object]:
        limits = self._config.limits
        raw = await http.body()
        if len(raw) > limits.max_request_bytes:
            raise RequestTooLargeError("body", len(raw), limits.max_request_bytes, "bytes")
        self._admission.require_any_room(len(raw), self._fleet.board.elsewhere())
        request, body = dialect.parse(raw, limits.max_documents, http.headers.get(dialect.TIMEOUT_HEADER))
        if not self._fleet.loads():
            raise NotReadyError
        timeout_s = limits.bounded_s(request.timeout_s)
        with self._admission.permit(len(raw), request.priority, timeout_s, self._fleet.board.elsewhere()) as permit:
            ranking = await pipeline.rerank(request, permit, self._renderer, self._scatter, self._config)
        self._count(request, ranking)
        return dialect.respond(ranking, request, body, request_id=request_id, model=self._model)

    def _count(self, request: RankRequest, ranking: Ranking) -> None:
        for counter, amount in (
            (metrics.DOCUMENTS, len(request.documents)),
            (metrics.TRUNCATED_DOCUMENTS, ranking.truncated_documents),
            (metrics.WINDOWED_DOCUMENTS, ranking.windowed_documents),
            (metrics.EXCLUDED_DOCUMENTS, len(ranking.excluded)),
            (metrics.UNSCORED_DOCUMENTS, len(ranking.unscored)),
            (metrics.RETRIED_SHARDS, ranking.retries),
            (metrics.HEDGED_SHARDS, ranking.hedges),
        ):
            self._recorder.count(counter, amount)

    @api.get("/v1/load")
    async def load(self) -> JSONResponse:
        """What is in flight here, and what every replica has to do. Checks the books on the way."""
        self._admission.check_integrity()
        self._fleet.board.check_integrity()
        self._scatter.check_integrity(self._admission.lists_in_flight)
        replicas = await self._fleet.replica_loads()
        return JSONResponse(
            {
                "lists": self._admission.lists_in_flight,
                "tokens": self._admission.tokens_in_flight,
                "shards": self._fleet.board.shards_in_flight,
                "replicas": [{"name": name} | asdict(one) for name, one in sorted(replicas.items())],
            }
        )

    @api.get("/", include_in_schema=False)
    async def root(self) -> JSONResponse:
        """Say what this is, to whoever opens it in a browser."""
        return JSONResponse({"service": "reranker", "model": self._model, "rerank": "POST /v1/rerank", "docs": "/docs"})

    @api.get("/health")
    async def health(self) -> JSONResponse:
        """200 once an engine can score, 503 before."""
        replicas = len(self._fleet.loads())
        if not replicas:
            failed = await asyncio.to_thread(self._start_failed)
            error = StartFailedError() if failed else NotReadyError()
            status = "failed" if failed else "starting"
            return JSONResponse(dialect.error_body(error) | {"status": status}, error.status_code)
        return JSONResponse({"status": "ok", "model": self._model, "replicas": replicas})

    def _start_failed(self) -> bool:
        """Whether Serve has given up starting engines. Blocks for some 15 ms; asked only while there is none."""
        application = serve.status().applications[serve.get_replica_context().app_name]
        return bool(application.deployments[self._engine.deployment_name].status == DeploymentStatus.DEPLOY_FAILED)

    @api.get("/v1/models")
    async def models(self) -> JSONResponse:
        """The one model this service has."""
        model = {"id": self._model, "object": "model", "created": self._started_s, "owned_by": "reranker"}
        return JSONResponse({"object": "list", "data": [model]})
