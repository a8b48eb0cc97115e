"""Shards and published caches in an object store that speaks S3. Their small files are brought once into the work pool, where
all ranks and nodes read them; a block is one request for a range of its tar. It is proven like one on a disk, and so are the
rows of a cache.

botocore is used: it comes with DVC's support for S3, takes its settings from the usual variables and files (AWS_PROFILE,
AWS_ENDPOINT_URL, ...), and may be used in forked processes.
"""

import functools
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from pipeline.base import files
from pipeline.data.manifest import REPAIR
from pipeline.runtime.errors import IntegrityError, RetryError, UsageError, first_line
from pipeline.runtime.machine import home_expanded, pool_root
from pipeline.runtime.progress import progress, say

T = TypeVar("T")
ORIGIN = "origin.txt"  # in a copy: the URL of the folder that holds the data
_HEADS = ("manifest.json", "zarr.json")  # files that stand at the top of a split or a cache
_DATA = re.compile(r"\.tar$|(^|/)(hard/c/\d+/\d+|logits/c\.\d+\.\d+\.\d+)$")
_DELAYS = (1.0, 2.0, 4.0, 8.0)  # seconds between the tries of a request
_BUSY = (408, 429)  # codes of HTTP below 500 after which a request is tried again


def local_copy(address: str | None, option: str) -> Path | None:
    """The folder that ``option`` names; of an address ``s3://bucket/prefix`` a folder in the work pool with all its small files,
    and in place of tars and a cache's chunks files of their size without content. Raises UsageError, RetryError."""
    if address is None or "://" not in address:
        return None if address is None else home_expanded(option, address)
    url = address.rstrip("/")
    listed = _listed(url)
    copy = pool_root() / "remote" / files.digest([url, listed])[:16]
    if not any(Path(name).name in _HEADS for name in listed):
        raise UsageError(f"{url}: no shards and no caches there; copy work/shards or work/caches to this address")
    if copy.is_dir():
        return copy
    fresh = copy.with_name(f".{copy.name}.{uuid4().hex}.partial")
    small = [name for name in listed if not _DATA.search(name)]
    try:
        for name in listed.keys() - set(small):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            with (fresh / name).open("wb") as file:
                file.truncate(listed[name][1])
        with progress(f"{url}: small files", len(small), "files") as tick:
            for name in small:
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_content(f"{url}/{name}"))
                if path.name in _HEADS:
                    path.with_name(ORIGIN).write_text(f"{url}/{name}".rpartition("/")[0])
                tick()
        try:
            fresh.rename(copy)
        except OSError:
            if not copy.is_dir():  # else another rank was faster
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return copy


def origin(root: Path) -> str | None:
    """Where the data of the split or cache in ``root`` lie, None if they lie there."""
    path = root / ORIGIN
    return path.read_text().strip() if path.is_file() else None


def read_range(url: str, expected: int, start: int, length: int) -> bytes:
    """``length`` bytes from ``start`` of an object of ``expected`` bytes. Raises IntegrityError if it has another length or is
    not there, RetryError where the store does not answer."""

    def request() -> tuple[str, bytes]:
        response = _client(os.getpid()).get_object(**_named(url), Range=f"bytes={start}-{start + length - 1}")
        return response["ContentRange"], response["Body"].read()

    where, data = _tried(url, request)
    if where != (wanted := f"bytes {start}-{start + length - 1}/{expected}"):
        raise IntegrityError(f"{url}: the store gave {where!r}, the manifest asks for {wanted!r}; {REPAIR}")
    return data


def current_hash(url: str) -> str:
    """sha256 of an object as it is now."""
    return hashlib.sha256(_content(url)).hexdigest()


def _content(url: str) -> bytes:
    return _tried(url, lambda: _client(os.getpid()).get_object(**_named(url))["Body"].read())


def _listed(url: str) -> dict[str, tuple[str, int]]:
    """Entity tag and bytes of each object below ``url``, by its name there."""
    bucket, prefix = _named(f"{url}/").values()

    def request() -> list[dict[str, Any]]:
        pages = _client(os.getpid()).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [entry for page in pages for entry in page.get("Contents", ())]

    found = {entry["Key"].removeprefix(prefix): (entry["ETag"], int(entry["Size"])) for entry in _tried(url, request)}
    return {name: of for name, of in found.items() if name and not name.endswith("/") and ".." not in name.split("/")}


def _named(url: str) -> dict[str, str]:
    found = re.fullmatch(r"s3://([^/]+)(?:/(.*))?", url)
    if found is None:
        raise UsageError(f"{url}: expected s3://bucket/prefix; for another kind of store use a mounted folder")
    return {"Bucket": found[1], "Key": found[2] or ""}


@functools.cache
def _client(process: int) -> Any:
    """One client per process: connections must not be shared with a parent. Raises UsageError."""
    try:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise UsageError("shards in an object store need botocore; install it: uv sync --group s3") from None
    once = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60)
    try:
        session = botocore.session.get_session()
        region = session.get_config_variable("region") or "us-east-1"
        return session.create_client("s3", region_name=region, config=once)
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"S3: {first_line(error)}; correct AWS_* or ~/.aws/config") from None


def _tried(url: str, request: Callable[[], T]) -> T:
    """What a request gives; if the store fails, it is tried five times in 15 s. Raises IntegrityError where there is no such
    object, UsageError where the store refuses, RetryError where it does not answer."""
    for delay in (*_DELAYS, None):
        _client(os.getpid())  # which says what to install where botocore is missing
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            return request()
        except NoCredentialsError:
            raise UsageError(
                f"{url}: no credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        except ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code in ("NoSuchKey", "InvalidRange", "404", "416"):
                raise IntegrityError(f"{url}: {code}: not the object that the manifest names; {REPAIR}") from None
            if status < 500 and status not in _BUSY:
                raise UsageError(f"{url}: the store refuses: {code}: {first_line(error)}") from None
            told = f"{code} ({status})"
        except (BotoCoreError, OSError) as error:  # no connection, a response that is cut
            told = first_line(error)
        if delay is not None:
            say(f"{url}: {told}; again in {delay:g} s")
            time.sleep(delay)
    raise RetryError(f"{url}: {told}, {len(_DELAYS) + 1} times; nothing is lost: run the same command again")
