# The exporter's image. Every package is installed with its hash; the base image is pinned by its tag.

FROM python:3.13.14-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all:
WORKDIR /src

# The environment is copied into the image. It has no pip; the build stage's pip installs into it.
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt ./
RUN pip --python /opt/venv/bin/python install --require-hashes --no-compile --requirement requirements.txt
COPY infra/image/build-requirements.txt infra/image/
RUN pip install --require-hashes --requirement infra/image/build-requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY app app
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/venv/bin/python install --no-deps --no-index --no-compile dist/*.whl
# The files are read-only at run time, so bytecode never becomes stale and needs no check against its source.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib


FROM python:3.13.14-slim-trixie
# The base image has pip, which is removed, and no bytecode of the standard library. Without write permission,
# Python would compile the library at every start.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
    && rm -r "$(python -c 'import ensurepip; print(*ensurepip.__path__)')" \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x 'site-packages' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/spot-interruption-exporter
COPY --from=build /opt/venv /opt/venv
COPY --chmod=0555 infra/image/healthcheck.py /opt/healthcheck.py

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1

# A number, so that Kubernetes can verify that the user is not root.
USER 10001:10001
# The default store is a file in the working directory. There is no VOLUME: an anonymous volume seems durable, but each
# new container gets a new one.
WORKDIR /var/lib/spot-interruption-exporter
EXPOSE 8080 8090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["spot-interruption-exporter"]

# At the end, because these values change with every build.
ARG VERSION=1.0.0
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="spot-interruption-exporter" \
      org.opencontainers.image.description="Counts GKE Spot VM interruptions for Prometheus, exactly once" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
