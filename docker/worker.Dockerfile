# A Celery worker with the ML environment alongside Airflow's: ATSPEED_PYTHON runs the stages, airflow the worker.
# Context: the repository, after the Airflow image. docker build -f docker/worker.Dockerfile -t atspeed-worker:cpu .
# TORCH_INDEX_URL: with the index of torch's CPU builds the image is for CPUs; empty: the usual index, for CUDA.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG AIRFLOW_IMAGE=atspeed-airflow:0.1.0

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX_URL=""
COPY requirements.in requirements.lock /build/
RUN python -m venv /opt/ml \
    && grep '^torch==' /build/requirements.lock > /build/torch.txt \
    && /opt/ml/bin/pip install --no-cache-dir --disable-pip-version-check \
       ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --requirement /build/torch.txt \
    && /opt/ml/bin/pip install --no-cache-dir --disable-pip-version-check \
       --requirement /build/requirements.in --constraint /build/requirements.lock \
    && /opt/ml/bin/pip check

FROM ${AIRFLOW_IMAGE}
USER 0:0
# git: a night is a clone, a commit and a tag. The mounted repository belongs to another user.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
COPY --from=build /opt/ml /opt/ml
COPY atspeed_core /opt/atspeed/atspeed_core
COPY tasks /opt/atspeed/tasks
COPY params.yaml dvc.yaml /opt/atspeed/
ENV ATSPEED_PYTHON=/opt/ml/bin/python \
    DVC_NO_ANALYTICS=1 \
    DO_NOT_TRACK=true \
    HF_HUB_DISABLE_TELEMETRY=1
USER 50000:50000
CMD ["celery", "worker"]
