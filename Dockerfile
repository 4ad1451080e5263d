# Penstock's own image: the services and the sidecars are one program each in it. The user's images are never touched.
#
# Nothing is fetched during the build: the project's wheel and all that it depends on come from the folder `wheels`, filled
# from the locked requirements by
#
#     python -m pip wheel --wheel-dir wheels '.[kafka,kubernetes,s3]' --constraint requirements/dev.txt
#
# so the same sources and the same lock file give the same contents, and a build needs no network.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY wheels /wheels
# Byte-compiled here: the root file system is read-only where this runs, and start-up time is a promise.
RUN python3 -m venv /opt/penstock \
 && /opt/penstock/bin/python -m pip install --no-cache-dir --no-index --find-links=/wheels 'penstock[kafka,kubernetes,s3]' \
 && /opt/penstock/bin/python -m pip uninstall --yes pip setuptools \
 && /opt/penstock/bin/python -m compileall -q -j 0 /opt/penstock/lib

FROM ${BASE}
COPY --from=build /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Any number but 0 will do: nothing in the image is written to and nothing looks the user up.
USER 65532:65532
ENTRYPOINT ["penstock"]
