# One image per service, from one file: docker build --target signer --tag afdp/signer .
#
# Each image holds this distribution and the packages of requirements/<service>.txt, exactly those, checked by their
# hashes; nothing is compiled and no package's own build script runs. The file system may be read-only: what a service
# keeps is under /var/lib/afdp, what others hand to it under /run/afdp. Both belong to the user that it runs as.

FROM python:3.11-slim AS base
ENV PATH=/opt/afdp/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# The distribution as a wheel, built with a build backend that is locked like everything else.
FROM base AS wheel
ARG PIP_INDEX_URL
WORKDIR /src
COPY requirements/build.txt requirements/
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY shared shared
COPY services services
COPY gateway gateway
COPY client client
# What client/ links to.
COPY deploy/vault deploy/vault
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# What installs into a virtual environment that the images take over whole, without the cache and the sources.
FROM base AS packages
ARG PIP_INDEX_URL
RUN python -m venv /opt/afdp
ENV PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements requirements

FROM packages AS gateway-packages
RUN pip install --require-hashes --requirement requirements/gateway.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index --find-links=/wheels afdp-notary

FROM packages AS notary-packages
RUN pip install --require-hashes --requirement requirements/notary.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index --find-links=/wheels afdp-notary

FROM packages AS signer-packages
RUN pip install --require-hashes --requirement requirements/signer.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index --find-links=/wheels afdp-notary

FROM packages AS transparency-packages
RUN pip install --require-hashes --requirement requirements/transparency.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index --find-links=/wheels afdp-notary

FROM packages AS metadata-packages
RUN pip install --require-hashes --requirement requirements/metadata.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index --find-links=/wheels afdp-notary

# What every image has in common. Services listen on loopback unless AFDP_HOST says otherwise.
FROM base AS runtime
LABEL org.opencontainers.image.title="AFDP Notary Service" \
      org.opencontainers.image.description="Evidence in, offline-verifiable receipts out." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/afdp /run/afdp /run/afdp-metadata /run/tls \
    /run/tls/authority /run/tls/clients /run/tls/gateway /run/tls/notary /run/tls/signer /run/tls/transparency \
    /run/tls/metadata /run/tls/postgres /run/tls/vault /run/tls/redis /run/redis /run/redis-clients
COPY deploy/container/healthcheck.py /opt/healthcheck.py
ENV AFDP_DATA_DIR=/var/lib/afdp
WORKDIR /var/lib/afdp
USER 10001:10001
STOPSIGNAL SIGTERM

FROM runtime AS gateway
COPY --from=gateway-packages /opt/afdp /opt/afdp
EXPOSE 3030
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "/opt/healthcheck.py", "http://127.0.0.1:3030/health"]
ENTRYPOINT ["python", "-m", "afdp.gateway"]

FROM runtime AS notary
COPY --from=notary-packages /opt/afdp /opt/afdp
ENV AFDP_METRICS_PORT=9090
EXPOSE 50051 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "/opt/healthcheck.py", "grpc://127.0.0.1:50051"]
ENTRYPOINT ["python", "-m", "afdp.notary"]

FROM runtime AS signer
COPY --from=signer-packages /opt/afdp /opt/afdp
ENV AFDP_METRICS_PORT=9090
EXPOSE 50052 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "/opt/healthcheck.py", "grpc://127.0.0.1:50052"]
ENTRYPOINT ["python", "-m", "afdp.signer"]

FROM runtime AS transparency
COPY --from=transparency-packages /opt/afdp /opt/afdp
ENV AFDP_METRICS_PORT=9090
EXPOSE 50053 8053 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "/opt/healthcheck.py", "grpc://127.0.0.1:50053"]
ENTRYPOINT ["python", "-m", "afdp.transparency"]

FROM runtime AS metadata
COPY --from=metadata-packages /opt/afdp /opt/afdp
ENV AFDP_METRICS_PORT=9090
EXPOSE 50054 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "/opt/healthcheck.py", "grpc://127.0.0.1:50054"]
ENTRYPOINT ["python", "-m", "afdp.metadata"]

# The command line: docker run --rm --volume "$PWD:/work:ro" afdp/cli verify receipt.json --trust trust
FROM runtime AS cli
COPY --from=notary-packages /opt/afdp /opt/afdp
WORKDIR /work
ENTRYPOINT ["afdp"]
