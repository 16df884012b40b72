# The service as a container, in two flavours:
#   docker build --target cpu -t reranker:cpu .     the head and the ingress in Kubernetes; or everything, on a CPU
#   docker build --target gpu -t reranker:gpu .     the engines, on NVIDIA GPUs
#   docker run -p 8000:8000 -e RERANKER_API_KEYS=… --shm-size 2g reranker:cpu
# A list of what is inside: docker build --target sbom-cpu -o . .   (writes reranker.cdx.json)
# `make image-check` looks through this file without Docker; `make image-replay` runs its install steps.

# By digest: the same bytes tomorrow. A new one: docker buildx imagetools inspect python:3.11-slim-bookworm
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
# What compiles stays in this stage; the GPU image has a compiler of its own, below.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PYTHON=python3
WORKDIR /app
COPY tools/install.sh tools/
COPY requirements/ requirements/

FROM build AS build-cpu
RUN tools/install.sh cpu locked
COPY . .
RUN .venv/bin/pip install --no-deps --no-build-isolation --editable . && .venv/bin/python -m compileall -q reranker deployments

FROM build AS build-gpu
RUN tools/install.sh gpu locked
COPY . .
RUN .venv/bin/pip install --no-deps --no-build-isolation --editable . && .venv/bin/python -m compileall -q reranker deployments

FROM build AS sbom
RUN python3 -m venv /opt/sbom && /opt/sbom/bin/pip install cyclonedx-bom==7.5.0

FROM sbom AS list-cpu
COPY --from=build-cpu /app/.venv /app/.venv
RUN /opt/sbom/bin/cyclonedx-py environment /app/.venv/bin/python --output-file /reranker.cdx.json

FROM sbom AS list-gpu
COPY --from=build-gpu /app/.venv /app/.venv
RUN /opt/sbom/bin/cyclonedx-py environment /app/.venv/bin/python --output-file /reranker.cdx.json

FROM scratch AS sbom-cpu
COPY --from=list-cpu /reranker.cdx.json /

FROM scratch AS sbom-gpu
COPY --from=list-gpu /reranker.cdx.json /

FROM ${PYTHON_IMAGE} AS final
# wget and bash: KubeRay's probes. libnuma1: vLLM on a CPU binds its threads with it.
RUN apt-get update && apt-get install -y --no-install-recommends wget libnuma1 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home reranker \
    # A login shell (KubeRay's ENABLE_LOGIN_SHELL) sets PATH anew.
    && echo "PATH=/app/.venv/bin:\$PATH" > /etc/profile.d/reranker.sh
ENV PATH=/app/.venv/bin:$PATH HOME=/home/reranker PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
WORKDIR /app
EXPOSE 8000
# A model takes a minute to load, and a large one several.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/health"]
CMD ["reranker", "serve", "--host", "0.0.0.0"]

FROM final AS cpu
COPY --from=build-cpu /app /app
COPY --from=list-cpu /reranker.cdx.json /usr/share/sbom/
USER 1000:1000

FROM final AS gpu
# Triton's driver module, and what FlashInfer and others build for a card when they first see it, are compiled at run time.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# Read by the NVIDIA container runtime. The last is where it puts libcuda: Triton else asks ldconfig, whose cache nobody can
# refresh on a read-only root.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility TRITON_LIBCUDA_PATH=/usr/lib/x86_64-linux-gnu
COPY --from=build-gpu /app /app
COPY --from=list-gpu /reranker.cdx.json /usr/share/sbom/
USER 1000:1000
