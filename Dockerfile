# Penstock's own image: the services and the sidecars are one program each in it. The user's images are never touched.
#
# Nothing is fetched during the build: the project's wheel and all that it depends on come from the folder `wheels`, filled
# from the locked requirements (requirements/image.txt) by helm/kind/build.sh, for one processor or for several. So the same
# sources and the same lock file give the same image: with `buildah bud --timestamp`, or with BuildKit's SOURCE_DATE_EPOCH
# and rewrite-timestamp=true, to the byte.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
# Of files and of the bill of materials: seconds since 1970.
ARG SOURCE_DATE_EPOCH=0
COPY wheels /wheels
COPY image/sbom.py /sbom.py
# No pip in the environment, and of the extras what the services import: rclone serves embedded mode alone, and Kubernetes
# is spoken to by a client of our own. Sources of compiled modules go; what is left is byte-compiled here, because the root
# file system is read-only where this runs, and start-up time is a promise. One job and hashes instead of times: the same
# bytes each time.
RUN python3 -m venv --without-pip /opt/penstock \
 && python3 -m pip --python /opt/penstock/bin/python install --no-cache-dir --no-compile --no-index \
      --find-links=/wheels --disable-pip-version-check --root-user-action=ignore 'penstock[kafka,oidc]' minio \
 && export SITE="$(/opt/penstock/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
 && python3 /sbom.py "$SITE" /wheels > /opt/penstock/sbom.cdx.json \
 && find "$SITE" -type f \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.hash' \) -delete \
 && find "$SITE" -depth -type d \( -name tests -o -name test -o -name SelfTest \) -exec rm -r {} + \
 && PYTHONHASHSEED=0 /opt/penstock/bin/python -m compileall -q -j 1 --invalidation-mode unchecked-hash "$SITE" \
 && find /opt/penstock -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Penstock" \
      org.opencontainers.image.description="Serverless, event-driven AI inference: every file that lands in a bucket becomes one containerised job" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The standard library too: some bases ship it as sources only, which every start of a sidecar would compile anew.
RUN PYTHONHASHSEED=0 python3 -m compileall -q -j 1 --invalidation-mode unchecked-hash \
      -x '(site-packages|dist-packages|idlelib|tkinter|lib2to3|ensurepip|turtledemo|/test)' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Any number but 0 will do: nothing in the image is written to and nothing looks the user up.
USER 65532:65532
ENTRYPOINT ["penstock"]
