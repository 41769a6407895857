# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
WORKDIR /build
# The environment of the build (its backend, pinned) and that of the program are two: the second has no pip.
RUN python -m venv /build/backend && python -m venv --without-pip /opt/outbox
COPY requirements-build.txt requirements.txt ./
# Wheels with known hashes only: nothing is compiled, and no code of theirs runs here.
RUN --mount=type=cache,target=/var/cache/pip \
    set -eu; \
    pip="/build/backend/bin/pip --disable-pip-version-check --cache-dir=/var/cache/pip"; \
    install="install --require-hashes --only-binary=:all: --no-deps"; \
    $pip $install --requirement requirements-build.txt; \
    $pip --python /opt/outbox/bin/python $install --requirement requirements.txt
COPY pyproject.toml LICENSE ./
COPY app app
COPY relay relay
COPY migrations migrations
RUN set -eu; \
    pip="/build/backend/bin/pip --disable-pip-version-check --no-cache-dir"; \
    $pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /build/wheel .; \
    $pip --python /opt/outbox/bin/python install --no-deps --no-index /build/wheel/*.whl

FROM python:3.13-slim
COPY --from=build /opt/outbox /opt/outbox
# The bytecode was made in the build; a read-only container could not write any.
ENV PATH=/opt/outbox/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /opt/outbox
# A number, so that `runAsNonRoot` can be checked without a look at /etc/passwd.
USER 10001:10001
EXPOSE 8000 9100 9200
ENTRYPOINT ["outbox"]
CMD ["--help"]
