# The MLflow tracking server and registry, with logins.
# Context: the repository. docker build -f docker/mlflow.Dockerfile -t atspeed-mlflow .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
COPY requirements-mlflow.in requirements.lock /build/
RUN python -m venv /opt/mlflow \
    && /opt/mlflow/bin/pip install --no-cache-dir --disable-pip-version-check \
       --requirement /build/requirements-mlflow.in --constraint /build/requirements.lock \
    && /opt/mlflow/bin/pip check

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 50001 mlflow \
    && useradd --uid 50001 --gid mlflow --home-dir /var/lib/mlflow --no-create-home --shell /usr/sbin/nologin mlflow \
    && install --directory --owner=mlflow --group=mlflow --mode=0750 /var/lib/mlflow /var/lib/mlflow/artifacts
COPY --from=build /opt/mlflow /opt/mlflow
COPY --chmod=0755 docker/mlflow_entrypoint.sh docker/health.py /usr/local/bin/
ENV PATH=/opt/mlflow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true
WORKDIR /var/lib/mlflow
USER 50001:50001
EXPOSE 5000
ENTRYPOINT ["mlflow_entrypoint.sh"]
