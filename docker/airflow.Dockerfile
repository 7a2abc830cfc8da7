# Airflow without torch: api-server, scheduler, dag-processor, triggerer, and the base of the worker image.
# Context: the repository. docker build -f docker/airflow.Dockerfile -t atspeed-airflow .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
COPY requirements-airflow.in requirements.lock /build/
RUN python -m venv /opt/airflow \
    && /opt/airflow/bin/pip install --no-cache-dir --disable-pip-version-check \
       --requirement /build/requirements-airflow.in --constraint /build/requirements.lock \
    && /opt/airflow/bin/pip check

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 50000 atspeed \
    && useradd --uid 50000 --gid atspeed --home-dir /var/lib/airflow --no-create-home --shell /usr/sbin/nologin atspeed \
    && install --directory --owner=atspeed --group=atspeed --mode=0750 \
       /var/lib/airflow /var/lib/airflow/logs /var/lib/atspeed
COPY --from=build /opt/airflow /opt/airflow
COPY dags /opt/atspeed/dags
COPY presets /opt/atspeed/presets
COPY --chmod=0755 docker/airflow_entrypoint.sh docker/health.py /usr/local/bin/

ENV PATH=/opt/airflow/bin:$PATH \
    PYTHONPATH=/opt/atspeed/dags \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/var/lib/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/atspeed/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=false \
    ATSPEED_HOME=/var/lib/atspeed \
    ATSPEED_PROJECT=/opt/atspeed
WORKDIR /opt/atspeed
USER 50000:50000
ENTRYPOINT ["airflow_entrypoint.sh"]
CMD ["version"]
