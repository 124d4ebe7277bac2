# One image for the dashboard, the worker and the migration.
FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 10001 auditor && mkdir /data && chown auditor /data
WORKDIR /opt/neuron-auditor
COPY requirements-uv.txt requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements-uv.txt \
    && uv pip install --system --no-cache --compile-bytecode --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY auditor auditor
COPY worker worker
COPY app app
COPY migrations migrations
RUN uv pip install --system --no-cache --compile-bytecode --no-deps --no-build-isolation .

USER auditor
ENV AUDITOR_HOME=/data
VOLUME /data
EXPOSE 8501
CMD ["auditor", "up"]
