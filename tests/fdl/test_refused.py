"""Each file under refused/ names in its first line the sentence it is refused with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from penstock.errors import InvalidInput, NotFound, Unsupported
from penstock.fdl import parse_document, parse_service

TAB_SENTENCE = "is not valid YAML: a TAB in the indentation (use blanks), or text that begins with @ or ` (quote it)"
REFUSED = sorted((Path(__file__).parent / "refused").glob("*.yaml"))


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_refused_file_says_line_and_reason(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    expected = text.splitlines()[0].removeprefix("# refused: ")
    with pytest.raises(InvalidInput) as caught:
        parse_document(text, read_script=lambda _: "#!/bin/sh\n")
    assert caught.value.message == expected


def test_the_folder_is_not_empty() -> None:
    assert len(REFUSED) > 30


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: the file is empty; an FDL file begins with `functions:`"),
        ("just words", "line 1: an FDL file is a mapping with `functions`, not text"),
        ("- functions: {}", "line 1: an FDL file is a mapping with `functions`, not a list"),
        (b"functions:\n  oscar: '\xff'", "line 2: is not UTF-8 text"),
        ("functions: '\x00'", "holds a NUL or a character that is not valid Unicode"),
        ('functions: "\\0"', "line 1: holds a NUL or a character that is not valid Unicode"),
        ("functions: \x01", "is not YAML: unacceptable character #x0001: control characters are not allowed"),
        ("a: " + "[" * 70 + "]" * 70, "line 1: is nested more than 64 levels deep"),
        ("? [a]\n: b", "line 1: a list or mapping cannot be a key"),
        ("a: {<<: [1]}", "line 1: `<<` takes a mapping or a list of mappings"),
        (
            "functions: {oscar: [c]}",
            "functions.oscar[0] (line 1): must be a mapping `<cluster id>: <service>`, not text",
        ),
        (
            "functions: {oscar: [c: ]}",
            "functions.oscar[0].c (line 1): 'c' must be a cluster id with a service (a mapping) below it, not nothing",
        ),
        ("functions: {aws: [{name: x}]}", "functions.aws[0] (line 1): a function for AWS needs a `lambda` mapping"),
        (
            "functions:\n\toscar: []",
            f"line 2: {TAB_SENTENCE}",
        ),
        ("functions: {}\nFunctions: {}", "line 1: a section occurs twice, in different case; keep one of them"),
    ],
)
def test_what_is_no_fdl_file_is_refused(text: str | bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_document(text, read_script=None)
    assert caught.value.message == sentence


def test_aliases_that_multiply_are_refused_before_they_cost_memory() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    with pytest.raises(InvalidInput, match="holds more than 200000 values, aliases expanded"):
        parse_document("\n".join(rows), read_script=None)


def test_a_yaml_library_without_libyaml_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader")
    with pytest.raises(Unsupported, match="PyYAML was installed without libyaml, which reading FDL needs"):
        parse_document("functions: {}", read_script=None)


def test_a_document_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidInput, match="larger than 4 MiB"):
        parse_document(" " * (4 * 2**20 + 1), read_script=None)


def test_more_entries_than_anybody_has_are_refused() -> None:
    entries = [{"storage_provider": "minio", "path": "abc/in"}] * 501
    with pytest.raises(InvalidInput, match="input: has more than 500 entries"):
        parse_service(BASE | {"input": entries})


def test_warnings_are_bounded() -> None:
    draft = parse_service(BASE | {f"unknown{n}": n for n in range(5000)})
    assert len(draft.warnings) == 201
    assert draft.warnings[-1] == "there are more than 200 warnings; the rest is left out"


def _missing(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def _foreign(path: str) -> str:
    raise NotFound("it is not part of the upload")


def _binary(path: str) -> str:
    return b"\xff".decode()


@pytest.mark.parametrize(
    ("read_script", "reason"),
    [
        (_missing, "cannot be read: No such file or directory"),
        (_foreign, "cannot be read: it is not part of the upload"),
        (_binary, "cannot be read: it is not UTF-8 text"),
        (lambda _: " \n", "is empty"),
    ],
)
def test_an_unreadable_script_names_the_line_in_the_file(read_script: object, reason: str) -> None:
    text = "functions:\n  oscar:\n  - c:\n      name: x\n      image: i\n      script: x.sh\n"
    with pytest.raises(InvalidInput) as caught:
        parse_document(text, read_script=read_script)  # type: ignore[arg-type]  # the table holds several types
    assert caught.value.message == f"functions.oscar[0].c.script (line 6): the script 'x.sh' {reason}"


BASE = {"name": "abc", "image": "i", "script": "true\n"}


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"name": ""}, "`name` is missing; every service needs one"),
        ({"name": "a" * 40}, "name: the name 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' is not usable: 1 to 39"),
        ({"name": "-a"}, "name: the name '-a' is not usable"),
        ({"name": "a\n"}, ""),
        ({"image": "two words"}, "image: an image reference has no blanks"),
        ({"cpu": "0"}, "cpu: must be above zero, not 0"),
        ({"cpu": -1}, "cpu: must be above zero, not -1"),
        ({"cpu": [1, 2]}, "cpu: must be a quantity, not a list"),
        ({"memory": float("nan")}, "memory: is not a finite number"),
        ({"enable_gpu": "perhaps"}, "enable_gpu: must be true or false, not 'perhaps'"),
        ({"retries": 1.5}, "retries: must be a whole number, not '1.5'"),
        ({"retries": True}, "retries: must be a whole number, not 'true'"),
        ({"concurrency": -1}, "concurrency: must be between 0 and 1000000000, not -1"),
        ({"rate": "fast"}, "rate: must be a number, not 'fast'"),
        ({"max_hops": 0}, "max_hops: must be between 1 and 1000, not 0"),
        ({"start": "later"}, "start: must be now or existing, not 'later'"),
        ({"upload_on_failure": "maybe"}, "upload_on_failure: must be always or never, not 'maybe'"),
        ({"batch": {"max_items": 0}}, "batch.max_items: must be between 1 and 1000, not 0"),
        ({"batch": {"linger": "2h"}}, "batch.linger: must be between 0 and 3600, not 7200"),
        ({"deadline": 0}, "deadline: must be above 0 and at most 31536000, not 0"),
        ({"visibility": "secret"}, "visibility: must be private, restricted or public, not 'secret'"),
        ({"input": ["a/b"]}, "input[0]: must be a mapping, not text"),
        ({"input": {"storage_provider": "minio."}}, "input.storage_provider: 'minio.' ends in a dot"),
        ({"input": {"storage_provider": "local.x"}}, "input.storage_provider: `local` is the product's own store"),
        ({"input": {"path": "a/b"}}, "input: no storage provider is not known; write local, minio"),
        (
            {"output": {"storage_provider": "s3", "path": "192.168.1.1/x"}},
            "output.path: '192.168.1.1' cannot be a bucket",
        ),
        (
            {"name": "a", "input": {"storage_provider": "local", "path": "in"}},
            "input.path: 'a' cannot be a bucket: 3 to",
        ),
        (
            {"output": {"storage_provider": "s3", "path": "abc/" + "x" * 901}},
            "output.path: the folder is longer than 900",
        ),
        ({"output": {"storage_provider": "s3", "path": "abc/x\ty"}}, "output.path: `path` holds a control character"),
        ({"environment": {"variables": {"A=B": 1}}}, "environment.variables.A=B: 'A=B' cannot be the name of an env"),
        ({"environment": []}, ""),
        ({"environment": ["A=1"]}, "environment: must be a mapping, not a list"),
        ({"labels": {"a b": "c"}}, "labels: 'a b' is not a valid key"),
        ({"labels": {"a": "two words"}}, "labels: the value of 'a' is not a valid label"),
        ({"expose": {"api_port": 70000}}, "expose.api_port: must be between 0 and 65535, not 70000"),
        ({"expose": {"api_port": 80, "nodePort": [30080, 30081]}}, "expose.nodePort: `nodePort` must have as many"),
        ({"expose": {"api_port": 80, "min_scale": 20}}, "expose.min_scale: `min_scale` 20 is above `max_scale` 10"),
        (
            {"expose": {"api_port": 80, "health_path": "up"}},
            "expose.health_path: `health_path` must begin with a slash",
        ),
        ({"synchronous": {"min_scale": 3, "max_scale": 2}}, "synchronous.min_scale: `min_scale` 3 is above"),
        (
            {"mount": {"storage_provider": "onedata", "path": "x"}},
            "mount.storage_provider: 'onedata' cannot be mounted",
        ),
        ({"mount": {"storage_provider": "minio"}}, "mount: `path` is empty"),
        ({"mount": {"storage_provider": "minio", "path": "abc", "options": "$(x)"}}, "mount.options: may hold only"),
        ({"volume": {"size": "1Gi"}}, "volume: `mount_path` must be an absolute path"),
        ({"volume": {"mount_path": "/a/../b", "size": "1Gi"}}, "volume.mount_path: `mount_path` must be an absolute"),
        ({"volume": {"mount_path": "/data"}}, "volume: needs `size` to create a volume, or the `name`"),
        ({"volume": {"mount_path": "/d", "name": "N", "size": 1}}, "volume.name: 'N' is not a DNS-1123 label"),
        (
            {"volume": {"mount_path": "/d", "name": "n", "lifecycle_policy": "delete"}},
            "volume.lifecycle_policy: `lifecycle_policy` belongs to a volume that is created",
        ),
        ({"kserve": {"storage_uri": "x"}}, "kserve: `type` is missing"),
        ({"kserve": {"type": "inference"}}, "kserve: `storage_uri` is missing"),
        ({"kserve": {"type": "inference", "storage_uri": "x"}}, "kserve: `inference.model_format` is missing"),
        ({"federation": {"members": [{"type": "oscar"}]}}, "federation.members[0]: a replica of type oscar needs"),
        ({"delegation": "guess"}, "delegation: must be static, random, load-based or topsis, not 'guess'"),
        ({"storage_providers": {"ftp": {}}}, "storage_providers.ftp: 'ftp' is not a provider type; write local, minio"),
        ({"script": "echo \ud800"}, "script: holds a NUL or a character that is not valid Unicode"),
        ({"vo": {1, 2}}, "vo: is a set, which JSON does not have"),
        ({"vo": {None: 1}}, "vo: has a key that is not text"),
        ({"retries": 10**5000}, "retries: is a number with too many digits"),
    ],
)
def test_a_wrong_field_of_a_service_is_named(extra: dict[str, object], sentence: str) -> None:
    if not sentence:  # beside a refused neighbour: this one is fine
        parse_service(BASE | extra)
        return
    with pytest.raises(InvalidInput) as caught:
        parse_service(BASE | extra)
    assert caught.value.message.startswith(sentence)


def test_a_service_must_be_a_mapping() -> None:
    with pytest.raises(InvalidInput, match=r"a service is a mapping \(a JSON object\), not a list"):
        parse_service([])  # type: ignore[arg-type]  # what a client may post


def test_a_refused_value_never_shows_a_secret() -> None:
    for extra in (
        {"environment": {"secrets": {"KEY": [["swordfish"]], "X": {"a": "swordfish"}}}, "batch": "no"},
        {"storage_providers": {"minio": {"x": {"secret_key": ["swordfish", "b"]}}}},
        {"clusters": {"x": {"auth_password": {"swordfish": 1}}}},
    ):
        with pytest.raises(InvalidInput) as caught:
            parse_service(BASE | extra)
        assert "swordfish" not in str(caught.value)
