"""A function as OSCAR's users write it runs unchanged, and its script sees what OSCAR promises and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.client import Client
from tests.embedded.shop import Shop, until
from tests.live import running, settings_for

FDL = """\
functions:
  oscar:
  - oscar-cluster:
      name: plants
      cpu: '0.5'
      memory: 256Mi
      image: example/plants:latest
      log_level: CRITICAL
      script: plants.sh
      input:
      - storage_provider: minio.default
        path: plants/input
      output:
      - storage_provider: minio.default
        path: plants/output/
        suffix:
        - txt
      environment:
        Variables:
          MODEL: small
          ROUNDS: 3
      allowed_users: []
storage_providers:
  minio:
    default:
      endpoint: https://minio.example.org:9000
      region: us-east-1
      access_key: SOMEBODYS
      secret_key: SECRET-OF-SOMEBODY
      verify: true
"""

SCRIPT = """#!/bin/bash
echo "SCRIPT: Invoked classify_image.py. File available in $INPUT_FILE_PATH"
FILE_NAME=`basename "$INPUT_FILE_PATH"`
OUTPUT_FILE="$TMP_OUTPUT_DIR/$FILE_NAME.txt"
tr a-z A-Z < "$INPUT_FILE_PATH" > "$OUTPUT_FILE"
echo "$MODEL $ROUNDS $STORAGE_OBJECT_KEY" >> "$OUTPUT_FILE"
echo intermediate > "$TMP_OUTPUT_DIR/$FILE_NAME.json"
env > "$TMP_OUTPUT_DIR/environment.txt"
printf %s "$EVENT" > "$TMP_OUTPUT_DIR/event.txt"
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
async def test_a_function_of_oscar_runs_unchanged(shop: Shop, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    for name in ("PENSTOCK_TOKEN", "AWS_SECRET_ACCESS_KEY", "MINIO_ROOT_PASSWORD", "KUBECONFIG"):
        monkeypatch.setenv(name, "not-for-scripts")
    await shop.client.apply(FDL.replace("\n", ends), {"plants.sh": SCRIPT.replace("\n", ends)})
    shop.drop("plants/input/my leaf.jpg", "leaf\n")
    record = await shop.ended("plants")
    assert record.phase == "succeeded", (record.reason, await shop.log(record.id))
    outputs = await shop.outputs("plants")
    assert outputs["output/my leaf.jpg.txt"] == b"LEAF\nsmall 3 input/my leaf.jpg\n"
    assert "output/my leaf.jpg.json" not in outputs, "the output's suffix"
    seen = dict(line.split("=", 1) for line in outputs["output/environment.txt"].decode().splitlines() if "=" in line)
    assert not [name for name in seen if name.startswith(("PENSTOCK", "_pk", "AWS_", "MINIO_", "KUBE", "XDG"))]
    assert "not-for-scripts" not in str(seen)
    assert "SECRET-OF-SOMEBODY" not in str(seen)
    token = (shop.data / "credentials").read_text().split('token = "')[1].split('"')[0]
    assert token not in str(seen), "the server's credential"
    assert seen["OSCAR_SERVICE_NAME"] == "plants"
    assert seen["OSCAR_SERVICE_TOKEN"] == (await shop.client.function("plants"))["token"] != token
    assert {"TMP_INPUT_DIR", "TMP_OUTPUT_DIR", "INPUT_FILE_PATH", "EVENT_TIME", "JOB_UUID", "RESOURCE_ID"} <= set(seen)
    event = json.loads(outputs["output/event.txt"])
    [told] = event["Records"]
    assert told["eventSource"] == "minio:s3"
    assert (told["s3"]["bucket"]["name"], told["s3"]["object"]["size"]) == ("plants", 5)


async def test_a_script_cannot_reach_the_data_folder_by_its_environment(shop: Shop) -> None:
    await shop.deploy("nosy", "env; pwd; ls -la\nls -la /proc/$$/fd | grep -c -e sqlite -e credentials\nexit 0\n")
    shop.drop("nosy-in/files/a")
    record = await shop.ended("nosy")
    text = (await shop.log(record.id)).decode()
    assert text.rstrip().endswith("\n0"), "no open file of the platform"
    assert f"{shop.data}/credentials" not in text
    assert f"{shop.data}/db" not in text


SECRET = "s3cr3t-Value/with+odd=chars"


async def test_no_secret_of_a_function_is_shown_or_written_where_it_could_be_read(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = f"{{secrets: {{API_KEY: '{SECRET}'}}, variables: {{PLAIN: seen}}}}"
    script = 'printf %s "$API_KEY" | wc -c\nexit 3\n'
    await shop.deploy("safe", script, environment=environment, retries=1)
    shop.drop("safe-in/files/a")
    with pytest.raises(Exception, match="code 3"):
        await shop.client.run("safe", b"x")
    records = await shop.settled("safe", 2)
    shown = [repr(await shop.client.function("safe")), repr(await shop.client.functions())]
    shown += [repr(await shop.client.invocation(one.id)) for one in records]
    logs = [(await shop.log(one.id)).decode() for one in records]
    shown += logs
    shown += [repr(await shop.client.dead()), repr(await shop.client.status())]
    assert logs == [f"{len(SECRET)}\n"] * 2, "the script had it"
    assert "API_KEY" in shown[0]
    assert "seen" in shown[0]
    await shop.client.backfill("safe", force=True)
    await until(lambda: shop.records("safe"), lambda seen: sum(one.attempt > 2 and one.final for one in seen) == 1)
    said = capfd.readouterr()
    shown += [said.out, said.err]
    for text in shown:
        assert SECRET not in text
    events = (shop.data / "db").glob("*.sqlite*")
    # The registry has to keep it; events, records and the history must not.
    for path in events:
        if "registry" not in path.name:
            assert SECRET.encode() not in path.read_bytes(), path.name
    buckets = [path for path in (shop.data / "buckets").rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in path.read_bytes() for path in buckets)


async def test_what_holds_secrets_is_readable_by_its_owner_alone(shop: Shop) -> None:
    await shop.deploy("safe", "sleep 1\n", environment=f"{{secrets: {{API_KEY: '{SECRET}'}}}}")
    shop.drop("safe-in/files/a")
    await until(lambda: shop.records("safe"), lambda seen: seen and not seen[0].final)
    assert shop.data.stat().st_mode & 0o077 == 0, "nobody else can enter the data folder at all"
    await shop.ended("safe")

    async def left() -> list[Path]:
        return [path for path in (shop.data / "work").rglob("plan.json") if SECRET.encode() in path.read_bytes()]

    await until(left, lambda paths: paths == [])


async def test_secrets_outlive_a_restart(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    async with running(settings) as platform, Client(platform.address, platform.services.credentials.token) as client:
        shop = Shop(client, platform.data, tmp_path)
        await shop.deploy("safe", 'printf %s "$API_KEY"\n', environment=f"{{secrets: {{API_KEY: '{SECRET}'}}}}")
    async with running(settings) as platform, Client(platform.address, platform.services.credentials.token) as client:
        assert (await client.run("safe", b"")).text.decode().strip() == SECRET
