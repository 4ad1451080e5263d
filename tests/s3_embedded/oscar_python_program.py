"""A program as users of OSCAR's Python client write it, run in that client's own environment (no import of ours).

Its argument is a JSON object: `endpoint`, `user`, `password`, `folder` (an empty one of its own), and where the
defaults do not fit: `name` of the service and its bucket, `image`, `patience_s`, `steps` to take. It says each step
that is done, and `all went well` at the end; whatever does not, ends it with the failed line.
"""

# ruff: noqa: T201, PT017 - what it prints is its result, and there is no pytest in that environment

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oscar_python.client import Client  # type: ignore[import-not-found]  # in the client's own environment

told = json.loads(sys.argv[1])
FOLDER = Path(told["folder"])
NAME = told.get("name", "grayify")
SHELF = f"shelf-of-{NAME}"
IMAGE = told.get("image", "example/grayify:1")
PATIENCE_S = told.get("patience_s", 60)
SCRIPT = """#!/bin/sh
echo "working on $(basename "$INPUT_FILE_PATH")"
tr a-z A-Z < "$INPUT_FILE_PATH" > "$TMP_OUTPUT_DIR/$(basename "$INPUT_FILE_PATH").out"
"""
# 1.3.2 looks for the script in the current folder, unless its path is absolute.
FDL = f"""functions:
  oscar:
  - lab:
      name: {NAME}
      image: {IMAGE}
      memory: 256Mi
      cpu: 0.2
      script: {FOLDER}/grayify.sh
      log_level: DEBUG
      input:
      - storage_provider: minio.default
        path: {NAME}/input
      output:
      - storage_provider: minio.default
        path: {NAME}/output
"""


def client(password: str = told["password"]) -> Any:
    options = {"cluster_id": "lab", "endpoint": told["endpoint"], "user": told["user"], "password": password}
    return Client(options={**options, "ssl": "False"})


def until(look: Callable[[], Any]) -> Any:
    """What it looks for, once it is there."""
    end = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.1)
    return found


def refused(work: Callable[[], Any], status: int) -> None:
    """The client raises what the server said by its status line alone."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the client's own class is no part of its interface
        assert str(status) in str(error), error
    else:
        raise AssertionError(f"this should have been refused with {status}")


def cluster(oscar: Any) -> None:
    info = json.loads(oscar.get_cluster_info().text)
    assert info["version"], info
    config = json.loads(oscar.get_cluster_config().text)
    assert set(config["minio_provider"]) >= {"endpoint", "region", "verify", "access_key", "secret_key"}, config
    if hasattr(oscar, "get_cluster_status"):
        assert "cluster" in json.loads(oscar.get_cluster_status().text)
    if hasattr(oscar, "health_check"):
        assert oscar.health_check().text == "Ok"
    refused(lambda: client("wrong").get_cluster_info(), 401)


def services(oscar: Any) -> None:
    assert json.loads(oscar.list_services().text) == []
    (FOLDER / "grayify.sh").write_text(SCRIPT)
    fdl = FOLDER / "grayify.yaml"
    fdl.write_text(FDL)
    assert oscar.create_service(str(fdl)).status_code == 201
    try:
        oscar.create_service(str(fdl))
    except ValueError as error:
        assert "already present" in str(error)
    else:
        raise AssertionError("a second service of the same name was made")
    shown = json.loads(oscar.get_service(NAME).text)
    assert (shown["cpu"], shown["memory"], len(shown["token"])) == ("0.2", "256Mi", 64), shown
    assert [one["name"] for one in json.loads(oscar.list_services().text)] == [NAME]
    assert oscar.update_service(NAME, {**shown, "memory": "300Mi"}).status_code == 204
    again = json.loads(oscar.get_service(NAME).text)
    assert (again["memory"], again["token"]) == ("300Mi", shown["token"]), again


def said(oscar: Any, **given: Any) -> bytes:
    """What a synchronous run answers, decoded."""
    answer = oscar.run_service(NAME, timeout=PATIENCE_S, **given)
    return base64.b64decode(answer.text).strip()


def runs(oscar: Any) -> None:
    assert said(oscar, input="some text") == b"SOME TEXT"
    file = FOLDER / "words.txt"
    file.write_text("from a file")
    said(oscar, input=str(file), output=str(FOLDER / "answer"))
    assert (FOLDER / "answer").read_text() == "FROM A FILE"
    token = json.loads(oscar.get_service(NAME).text)["token"]
    assert said(oscar, input="with token", token=token) == b"WITH TOKEN"
    # A dict goes out as form text, under a label that differs by version. It is a file like any other.
    assert said(oscar, input={"key": "a value", "other": 2}) == b"KEY=A+VALUE&OTHER=2"
    if hasattr(oscar, "health_check"):  # 1.3.2 cannot send an empty body: it breaks before it asks
        assert said(oscar) == b""


def listed(oscar: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(oscar.list_jobs(NAME).text)["jobs"]
    return found


def begun(oscar: Any) -> str:
    """The job of an asynchronous run, once it has succeeded; it is listed at once."""
    oscar.remove_all_jobs(NAME)
    before = set(listed(oscar))  # what had failed stays
    assert oscar.run_service(NAME, input="later", async_call=True).status_code == 201
    (job,) = set(listed(oscar)) - before
    until(lambda: listed(oscar)[job]["status"] == "Succeeded")
    return job


def jobs(oscar: Any) -> None:
    job = begun(oscar)
    assert "working on" in oscar.get_job_logs(NAME, job).text
    assert oscar.remove_job(NAME, job).status_code == 204
    refused(lambda: oscar.get_job_logs(NAME, job), 404)


def list_of_jobs(oscar: Any) -> None:
    """As `jobs`, where nothing is said: pods are simulated."""
    job = begun(oscar)
    assert oscar.remove_job(NAME, job).status_code == 204
    assert job not in listed(oscar)
    refused(lambda: oscar.remove_job(NAME, job), 404)


def stored(oscar: Any) -> None:
    """Objects of a bucket that no function reads, by the keys that the server tells."""
    storage = oscar.create_storage_client()
    path = FOLDER / "object.bin"
    path.write_bytes(bytes(range(256)) * 80_000)
    storage.upload_file("minio.default", str(path), f"{NAME}/output")
    told_of = storage.list_files_from_path("minio.default", f"{NAME}/output/")
    assert "output/object.bin" in [one["Key"] for one in told_of["Contents"]], told_of
    target = FOLDER / "back"
    target.mkdir()
    storage.download_file("minio.default", str(target), f"{NAME}/output/object.bin")
    assert (target / "object.bin").read_bytes() == path.read_bytes()


def files(oscar: Any) -> None:
    storage = oscar.create_storage_client()
    before = set(listed(oscar))
    for name, size in (("small.txt", 9), ("large.txt", 20_000_000)):
        path = FOLDER / name
        path.write_bytes(b"abcdefghi" if size == 9 else b"large " * (size // 6))
        storage.upload_file("minio.default", str(path), f"{NAME}/input")

        def output(name: str = name) -> bool:
            # Whatever the path, the client lists by its second part alone.
            told = storage.list_files_from_path("minio.default", f"{NAME}/output/")
            return f"output/{name}.out" in [one["Key"] for one in told.get("Contents", [])]

        until(output)
        target = FOLDER / "downloads"
        target.mkdir(exist_ok=True)
        storage.download_file("minio.default", str(target), f"{NAME}/output/{name}.out")
        (got,) = [one for one in target.iterdir() if one.name == f"{name}.out"]
        expected = hashlib.sha256(path.read_bytes().upper()).hexdigest()
        assert hashlib.sha256(got.read_bytes()).hexdigest() == expected, name
    of_service = oscar.create_storage_client(NAME)
    assert of_service.list_files_from_path("minio.default", f"{NAME}/input/")
    new = until(lambda: [job for job in listed(oscar) if job not in before])
    assert len(new) == 2, new  # two uploads, two jobs, none twice
    assert oscar.remove_all_jobs(NAME).status_code == 204


def buckets(oscar: Any) -> None:
    if not hasattr(oscar, "create_bucket"):
        return
    assert oscar.create_bucket(SHELF).status_code == 201
    refused(lambda: oscar.create_bucket(SHELF), 409)
    assert SHELF in [one["bucket_name"] for one in json.loads(oscar.list_buckets().text)]
    assert oscar.update_bucket(SHELF, "restricted", ["alice"]).status_code == 204
    assert json.loads(oscar.get_bucket(SHELF).text)["visibility"] == "restricted"
    import requests  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415 - the client brings it

    link = json.loads(oscar.presign_bucket(SHELF, "a b.txt", operation="upload", expires=60).text)
    assert requests.request(link["method"], link["url"], data=b"by link", timeout=30).ok
    link = json.loads(oscar.presign_bucket(SHELF, "a b.txt", expires=60).text)
    assert requests.get(link["url"], timeout=30).content == b"by link"
    assert [one["object_name"] for one in json.loads(oscar.get_bucket(SHELF).text)["objects"]] == ["a b.txt"]
    assert oscar.delete_bucket(SHELF).status_code == 204
    refused(lambda: oscar.get_bucket(SHELF), 404)


def rest(oscar: Any) -> None:
    """Methods whose routes may come later: then they are refused with 404, as OSCAR does for what is switched off."""
    if not hasattr(oscar, "get_deployment_status"):
        return
    assert json.loads(oscar.get_deployment_status(NAME).text)["state"]
    later = (
        lambda: oscar.get_deployment_logs(NAME),
        oscar.list_volumes,
        lambda: oscar.create_volume("disk", "1Gi"),
        lambda: oscar.get_volume("disk"),
        lambda: oscar.delete_volume("disk"),
        oscar.get_system_logs,
        oscar.get_metrics_summary,
        oscar.get_metrics_breakdown,
        lambda: oscar.get_service_metrics(NAME),
        oscar.get_own_quota,
        lambda: oscar.get_user_quota("alice"),
        lambda: oscar.update_user_quota("alice", "1", "1Gi"),
        lambda: oscar.get_federation(NAME),
        lambda: oscar.add_federation_members(NAME, []),
        lambda: oscar.update_federation_members(NAME, [], []),
        lambda: oscar.remove_federation_members(NAME, []),
    )
    for call in later:
        try:
            assert call().status_code < 400
        except Exception as error:  # noqa: BLE001 - as above
            assert "404" in str(error), error


def end(oscar: Any) -> None:
    assert oscar.remove_service(NAME).status_code == 204
    refused(lambda: oscar.remove_service(NAME), 404)
    assert json.loads(oscar.list_services().text) == []


STEPS = (cluster, services, runs, jobs, list_of_jobs, files, stored, buckets, rest, end)

for step in STEPS:
    if step.__name__ in told.get("steps", [step.__name__]):
        step(client())
        print(f"done: {step.__name__}", flush=True)
print("all went well")
